// The first program: is this picture something that is enrolled? `node dist/search.js photo.jpg...`

import { readFileSync } from "node:fs";

import { ConnectError, Decision, acceptedLabel, connect } from "./index.js";

const { retrieval } = connect();
let failed = false;
for (const path of process.argv.slice(2)) {
  try {
    const query = { case: "image", value: readFileSync(path) } as const;
    const found = await retrieval.search({ query, limit: 3 }, { timeoutMs: 10_000 });
    console.log(`${path}: ${Decision[found.decision]} ${acceptedLabel(found) ?? "nothing that is enrolled"}`);
    for (const match of found.matches) {
      console.log(`  ${match.score.toFixed(4)} ${match.label}`);
    }
  } catch (error) {
    console.error(`${path}: ${ConnectError.from(error).message}`);
    failed = true;
  }
}
process.exitCode = failed ? 1 : 0;
