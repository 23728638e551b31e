// The client for TypeScript: the calls of proto/, and how a server is reached.
//
// Messages and services are generated (src/gen); this file holds what every program would write by itself. Nothing is sent
// twice, and nothing is given a deadline, unless the caller says so: `{ timeoutMs: 5000 }` beside a request.

import { readFileSync } from "node:fs";

import { type Client, Code, ConnectError, type Interceptor, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { CalibrationService } from "./gen/matchpoint/v1/calibration_pb.js";
import { Decision } from "./gen/matchpoint/v1/decision_pb.js";
import { GalleryService } from "./gen/matchpoint/v1/gallery_pb.js";
import { MonitoringService } from "./gen/matchpoint/v1/monitoring_pb.js";
import { OperatingPointService } from "./gen/matchpoint/v1/operating_point_pb.js";
import { RetrievalService, type SearchResponse } from "./gen/matchpoint/v1/retrieval_pb.js";
import { ServerService } from "./gen/matchpoint/v1/server_pb.js";
import { SnapshotService } from "./gen/matchpoint/v1/snapshot_pb.js";

export * from "./gen/matchpoint/v1/calibration_pb.js";
export * from "./gen/matchpoint/v1/decision_pb.js";
export * from "./gen/matchpoint/v1/gallery_pb.js";
export * from "./gen/matchpoint/v1/monitoring_pb.js";
export * from "./gen/matchpoint/v1/operating_point_pb.js";
export * from "./gen/matchpoint/v1/retrieval_pb.js";
export * from "./gen/matchpoint/v1/server_pb.js";
export * from "./gen/matchpoint/v1/snapshot_pb.js";
export { Code, ConnectError };

/** Where a server is, and who asks. What is left out comes from the environment, by the names that the program uses. */
export interface ServerAddress {
  /** `http://host:port`, or `https://` with TLS. MATCHPOINT_SERVER; http://127.0.0.1:50051 by default. */
  readonly server?: string;
  /** A key of `matchpoint keys new`, or a token of an issuer. MATCHPOINT_API_KEY. Sent over TLS, or to this machine, alone. */
  readonly key?: string;
  /** A file of certificates (PEM) that the server's is signed by, if the system's do not do. MATCHPOINT_SERVER_CA. */
  readonly authorities?: string;
}

/** One client for each service, over one connection. */
export interface Matchpoint {
  readonly retrieval: Client<typeof RetrievalService>;
  readonly gallery: Client<typeof GalleryService>;
  readonly operatingPoints: Client<typeof OperatingPointService>;
  readonly calibration: Client<typeof CalibrationService>;
  readonly monitoring: Client<typeof MonitoringService>;
  readonly snapshots: Client<typeof SnapshotService>;
  readonly server: Client<typeof ServerService>;
}

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** Names a server; the first call connects. */
export function connect(given: ServerAddress = {}): Matchpoint {
  const server = given.server ?? process.env["MATCHPOINT_SERVER"] ?? "http://127.0.0.1:50051";
  const key = given.key ?? process.env["MATCHPOINT_API_KEY"];
  const authorities = given.authorities ?? process.env["MATCHPOINT_SERVER_CA"];
  const { protocol, hostname } = new URL(server);
  if (protocol !== "http:" && protocol !== "https:") {
    throw new Error(`the server's address is ${server}; begin it with http:// or https://`);
  }
  if (key !== undefined && protocol === "http:" && !LOOPBACK.test(hostname)) {
    throw new Error(`a key would cross the network to ${hostname} unencrypted; use https://`);
  }
  if (given.authorities !== undefined && protocol === "http:") {
    throw new Error(`authorities need an encrypted connection; write https:// in place of ${server}`);
  }
  const withKey: Interceptor = (next) => (request) => {
    if (key !== undefined) {
      request.header.set("authorization", `Bearer ${key}`);
    }
    return next(request);
  };
  const transport = createGrpcTransport({
    baseUrl: server,
    interceptors: [withKey],
    ...(authorities === undefined || protocol === "http:" ? {} : { nodeOptions: { ca: readFileSync(authorities) } }),
  });
  return {
    retrieval: createClient(RetrievalService, transport),
    gallery: createClient(GalleryService, transport),
    operatingPoints: createClient(OperatingPointService, transport),
    calibration: createClient(CalibrationService, transport),
    monitoring: createClient(MonitoringService, transport),
    snapshots: createClient(SnapshotService, transport),
    server: createClient(ServerService, transport),
  };
}

/** The label that was accepted; undefined for REJECT and UNDECIDED, and if the server is newer and says something else. */
export function acceptedLabel(found: SearchResponse): string | undefined {
  return found.decision === Decision.ACCEPT ? found.decidedLabel : undefined;
}
