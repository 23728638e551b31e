#!/usr/bin/env python3
"""Uses the console in a real Chromium as people do: each page, in light and dark, on a desk and on a phone.

    test_console.py --program target/debug/matchpoint [--pictures FOLDER]

Every page must pass axe-core's rules, fit 360 pixels without scrolling sideways, ask nobody but its own
server, and write no error to the browser's console; sampled decisions are labelled by the keyboard alone,
fifty of them as a person does. Pages of 10,000 items and of a queue of 1,000 are timed. --pictures keeps
screenshots. Needs `chromium` and `npm` (Debian packages), and Playwright from
scripts/console-requirements.txt. Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import array
import contextlib
import http.client
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from testing import PHOTOS, ROOT, Server, certificate, make_deployment, parser_of, run

AXE = "4.14.1"
ENROLLED = PHOTOS / "images/gc_explore_monuments_egypt_meidumPyramid/g0_ref.jpg"
PAGES = [
    "try",
    "label",
    "promise",
    "points",
    "points/{point}",
    "points/{point}/report",
    "calibrate",
    "gallery",
    "gallery?contains=monument",
    "gallery/enrol",
    "gallery/doubts",
    "item?id={item}",
]
VIEWS = [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)]
# What a page may take the server, in milliseconds.
SERVER_MS_MAX = 50.0

problems: list[str] = []


def expect(is_so: bool, what: str) -> None:
    if not is_so:
        problems.append(what)
        print(f"NOT SO   {what}")


def axe_source() -> str:
    """axe-core as npm has it, fetched once."""
    folder = ROOT / ".cache/axe-core"
    source = folder / f"axe-{AXE}.min.js"
    if not source.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"axe-core@{AXE}"]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(folder / packed.stdout.strip()) as package:
            member = package.extractfile("package/axe.min.js")
            assert member is not None
            source.write_bytes(member.read())
    return source.read_text(encoding="utf-8")


class Console(Server):
    """A server with a console."""

    def __init__(self, program: Path, deployment: Path, *settings: str) -> None:
        super().__init__(program, deployment, "--console-listen", "127.0.0.1:0", *settings)
        self.program, self.calls = program, f"http://{self.addresses['listening']}"
        scheme = "https" if "--tls-certificate" in settings else "http"
        self.console = f"{scheme}://{self.addresses['console']}"

    def search(self, images: list[Path], *flags: str) -> None:
        run(self.program, "search", "--server", self.calls, *flags, *images)


def make_points(program: Path, folder: Path) -> None:
    make_deployment(program, folder, "--keep-images")
    # Another to choose, and then the first one again.
    queries = ["--queries", PHOTOS / "calibrate.csv"]
    run(program, "calibrate", folder, *queries, "--target-far", 0.2, "--confidence", 0.9)
    run(program, "points", "rollback", folder)


def photographs(count: int) -> list[Path]:
    rows = (PHOTOS / "evaluate.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [PHOTOS / row.split(",")[0] for row in rows[:count]]


class Visit:
    """A browser's window at the console, whose errors and requests are watched."""

    def __init__(self, browser: Browser, server: Console, view: tuple[str, int]) -> None:
        scheme, width = view
        self.server, self.view = server, f"{scheme}-{width}"
        size = {"width": width, "height": 860 if width > 400 else 740}
        # Certificates of these tests are signed by nobody that a browser knows.
        self.context = browser.new_context(
            viewport=size, color_scheme=scheme, has_touch=width < 400, ignore_https_errors=True
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: expect(False, f"script: {error}"))
        self.page.on("request", self.watch)

    def hear(self, said: object) -> None:
        # A picture that is none is refused, and so is a change that comes late, as they have to be.
        refused = re.search("status of (400|409)", said.text)  # type: ignore[attr-defined]
        is_error = said.type == "error"  # type: ignore[attr-defined]
        expect(bool(refused) or not is_error, f"console: {said.text}")  # type: ignore[attr-defined]

    def watch(self, request: object) -> None:
        address = request.url  # type: ignore[attr-defined]
        own = address.startswith((self.server.console + "/", "data:", "blob:"))
        expect(own, f"a request to {address}")

    def sign_in(self, key: str) -> None:
        self.page.goto(self.server.console)
        # The field has the focus by itself, a moment after the page is there.
        self.page.wait_for_selector("#key:focus")
        self.page.keyboard.type(key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/try")

    def open(self, path: str) -> None:
        self.page.goto(f"{self.server.console}/d/shop/{path}")
        self.page.wait_for_load_state("networkidle")

    def check(self, name: str, axe: str, pictures: Path | None) -> None:
        page = self.page
        name = f"{name.split('?')[0].replace('/', '-')}-{self.view}"
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        expect(over <= 0, f"{name} is {over} pixels wider than its window")
        expect(page.locator("h1").count() == 1, f"{name} has not one heading")
        # The policy of the pages runs no script of ours but by the debugger.
        page.evaluate(axe)
        found = page.evaluate("axe.run().then((found) => found.violations)")
        for one in found:
            where = ", ".join(" ".join(map(str, node["target"])) for node in one["nodes"][:3])
            expect(False, f"{name}: {one['id']}: {one['help']}: {where}")
        if pictures:
            page.screenshot(path=pictures / f"{name}.png")


def try_pictures(visit: Visit) -> None:
    """Asks with a picture that is picked, then with one that is pasted."""
    visit.open("try")
    page = visit.page
    page.set_input_files("#image", ENROLLED)
    page.wait_for_selector(".verdict.promised")
    said = page.inner_text(".headline")
    expect("meidumPyramid" in said, f"an enrolled picture was answered by: {said}")
    page.evaluate(
        """async () => {
            const held = new DataTransfer();
            held.items.add(new File(["no picture"], "<script>.jpg", { type: "image/jpeg" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: held, bubbles: true }));
        }"""
    )
    page.wait_for_selector(".verdict.refused")
    page.click("text=Compare with a second picture")
    page.set_input_files("#image", ENROLLED)
    page.set_input_files("#second", ENROLLED)
    page.wait_for_selector("text=Both pictures show the same.")
    page.reload()
    page.set_input_files("#image", ENROLLED)
    page.wait_for_selector(".verdict.promised")
    page.wait_for_load_state("networkidle")


def label_by_keyboard(visit: Visit) -> None:
    """Says all that can be said, and touches nothing but keys."""
    page = visit.page
    page.goto(f"{visit.server.console}/d/shop/label")

    def labelled() -> int:
        return int(page.inner_text(".progress b:first-of-type"))

    def press(*keys: str) -> None:
        with page.expect_navigation():
            for key in keys:
                page.keyboard.press(key)

    before = labelled()
    press("s")
    press("n")
    press("x")
    # What nobody can tell bears on no rate.
    expect(labelled() == before + 2, "two of three answers bear on the rates")
    page.keyboard.press("o")
    page.keyboard.type("GREATWALL")
    page.wait_for_selector("datalist option", state="attached")
    label = page.get_attribute("datalist option", "value")
    for _ in "GREATWALL":
        page.keyboard.press("Backspace")
    page.keyboard.type(label or "")
    press("Enter")
    page.keyboard.press("m")
    page.keyboard.type("red coat")
    press("Enter")
    expect(labelled() == before + 4, "a label and a named stranger are two more")
    press("u")
    expect("red coat" in page.inner_text(".said"), "back leads to the last answer")
    press("n")
    expect(labelled() == before + 4, "an answer that is corrected is one label")
    shown = page.get_attribute("[name=decision]", "value")
    press("k")
    expect(page.get_attribute("[name=decision]", "value") != shown, "what is skipped does not come again")


def label_fifty(visit: Visit) -> None:
    """Labels fifty decisions as a person does, with pauses between keys: the rest is for looking."""
    page, keys, waited, served = visit.page, 0, 0.0, []
    page.goto(f"{visit.server.console}/d/shop/label")
    before = int(page.inner_text(".progress b:first-of-type"))

    def press(*pressed: str) -> None:
        nonlocal keys, waited
        for key in pressed[:-1]:
            page.keyboard.press(key)
            page.wait_for_timeout(90)
        began = time.monotonic()
        with page.expect_navigation():
            page.keyboard.press(pressed[-1])
        page.wait_for_function("[...document.querySelectorAll('.pair img')].every((one) => one.complete)")
        waited += time.monotonic() - began
        keys += len(pressed)
        timing = "performance.getEntriesByType('navigation')[0]"
        served.append(page.evaluate(f"{timing}.responseStart - {timing}.requestStart"))

    began = time.monotonic()
    for number in range(50):
        match number % 10:
            case 3 | 7:
                press("n")
            case 5:
                page.keyboard.press("o")
                page.keyboard.type("greatw", delay=90)
                page.wait_for_selector("datalist option", state="attached")
                # The only label that is left, and then it is said.
                page.keyboard.press("Enter")
                taken = page.input_value("#label")
                expect(taken == "gc_monuments_greatWall", f"Enter takes {taken}, not the label that is left")
                keys += 8
                press("Enter")
            case 8 if number == 28:
                # Taken back, and said otherwise.
                press("s")
                press("u")
                press("n")
            case _:
                press("s")
    took = time.monotonic() - began
    expect(int(page.inner_text(".progress b:first-of-type")) == before + 50, "fifty decisions are labelled")
    slowest, each = max(served), waited / 50
    print(
        f"50 decisions: {took:.0f} s without a look; for each {keys / 50:.1f} keys and {1000 * each:.0f} ms"
        f" of waiting, of which the server takes {statistics.median(served):.0f} ms, at most {slowest:.0f} ms"
    )
    expect(each < 0.5, f"each label waits {each:.2f} s")
    expect(took < 150, f"fifty labels leave no half of five minutes for looking: {took:.0f} s")


def label_together(browser: Browser, visit: Visit, key: str) -> None:
    """A second person gets another decision than the first."""
    other = Visit(browser, visit.server, ("light", 1280))
    other.sign_in(key)
    decisions = []
    for one in (visit, other, visit):
        one.open("label")
        decisions.append(one.page.get_attribute("[name=decision]", "value"))
    first, second, again = decisions
    expect(first == again != second, f"two people got {decisions}")
    other.context.close()


def choose_point(visit: Visit) -> None:
    """Lets another operating point decide, with a reason."""
    page = visit.page
    visit.open("points")
    page.locator("tbody tr:not(:has(.mark)) a").first.click()
    expect("sampled decisions without a label" in page.inner_text("main"), "sampled decisions are compared")
    page.fill("#reason", "a test of the console")
    page.click("text=Activate")
    page.wait_for_selector(".mark")
    visit.open("points")
    page.click("text=Go back to the one that decided before")
    page.fill("#back-reason", "and back")
    page.click("button:has-text('Roll back')")
    page.wait_for_selector(".mark")


def labelled_folder(folder: Path, kinds: int) -> Path:
    """Photographs of enrolled things and of so many strangers, a folder for each, as people have them."""
    mine = folder / f"mine-{kinds}"
    strangers: set[str] = set()
    for row in (PHOTOS / "calibrate.csv").read_text(encoding="utf-8").splitlines()[1:]:
        path, label, role, _ = row.split(",")
        if role == "unknown":
            if label in strangers or len(strangers) == kinds:
                continue
            strangers.add(label)
        (mine / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS / path, mine / label)
    (mine / "notes.txt").write_text("no picture", encoding="utf-8")
    # A name that a browser sends otherwise, of a picture that the page names.
    (mine / '8" mug').mkdir(exist_ok=True)
    (mine / '8" mug/broken.jpg').write_bytes(b"\xff\xd8\xff\xe0 broken")
    return mine


def listed_folder(folder: Path) -> Path:
    """The same without folders: a list says what each picture shows."""
    flat = folder / "flat"
    flat.mkdir()
    rows, enrolled = ["path,label,role"], set()
    for row in (PHOTOS / "gallery.csv").read_text(encoding="utf-8").splitlines()[1:]:
        enrolled.add(row.split(",")[1])
    for number, path in enumerate(sorted(labelled_folder(folder, 24).rglob("*.jpg"))):
        shutil.copy(path, flat / f"{number}.jpg")
        label = path.parent.name.replace('"', "")
        rows.append(f"{number}.jpg,{label},{'query' if label in enrolled else 'unknown'}")
    (flat / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return flat


def calibrate_from_folder(visit: Visit, folder: Path, pictures: Path | None, axe: str) -> None:
    """Refused with what it takes; then only shown, from folders and from a list; then it decides."""
    page = visit.page

    def ask(far: str, button: str, picked: Path | None = None, stops: bool = False) -> str:
        visit.open("calibrate")
        page.set_input_files("#folder", picked or labelled_folder(folder, 24))
        if picked and (picked / "list.csv").exists():
            page.set_input_files("#list", picked / "list.csv")
        page.fill("#far", far)
        page.select_option("#confidence", "0.9")
        page.click(f"text={button}")
        if stops:
            page.click("button:has-text('Stop')")
        page.wait_for_selector(".verdict", timeout=120_000)
        return page.inner_text("main")

    # All photographs there are, so that it takes a while.
    said = ask("20", "Calibrate, and let it decide", PHOTOS / "images", stops=True)
    expect("Stopped: nothing was changed" in said, f"it was not stopped: {said}")
    said = ask("0.1", "Only say what would come out")
    refused = "Refused: nothing was changed" in said and "2302 labels of strangers" in said
    expect(refused, f"no refusal: {said}")
    visit.check("calibrate-refused", axe, pictures)
    said = ask("20", "Only say what would come out")
    shown = "nothing was changed" in said and "Promised: of strangers at most 20 %" in said
    expect(shown, f"no result: {said}")
    expect("mine-24/notes.txt" in said, f"what was left out is not named: {said}")
    expect('mine-24/8" mug/broken.jpg' in said, f"a name has lost its quote: {said}")
    listed = ask("20", "Only say what would come out", listed_folder(folder))
    # By other ids others are drawn, so that the rates may differ.
    measured = [re.findall(r"Measured on \d+ labels of strangers", text) for text in (said, listed)]
    expect(measured[0] and measured[0] == measured[1], f"the list gives another result: {measured}")
    visit.check("calibrate-list", axe, pictures)
    visit.open("points")
    before = page.locator("tbody tr").count()
    said = ask("20", "Calibrate, and let it decide")
    expect("It decides now" in said, f"it does not decide: {said}")
    visit.check("calibrate-done", axe, pictures)
    visit.open("points")
    expect(page.locator("tbody tr").count() == before + 1, "there is one operating point more")


def relabel(visit: Visit) -> None:
    """Gives an item another label, and its own again; its picture stays. A late change is refused."""
    page, own = visit.page, "gc_monuments_greatWall"
    address = "item?id=images%2Fgc_monuments_greatWall%2Fg0_ref.jpg"
    visit.open(address)
    seen_before = page.get_attribute("[name=etag]", "value")
    for label in ("gc_monuments_great_wall", own):
        visit.open(address)
        page.keyboard.press("r")
        page.keyboard.type(label)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect("It has another label now" in page.inner_text(".said"), f"not relabelled as {label}")
        expect(page.inner_text("h1") == label, f"the item is not {label}")
        page.wait_for_function("120 < document.querySelector('figure img').naturalWidth")
        if label != own:
            late = page.evaluate(
                """(etag) => {
                    document.querySelector("[name=etag]").value = etag;
                    document.querySelector("#label").value = "late";
                    document.querySelector("#label").form.requestSubmit();
                }""",
                seen_before,
            )
            page.wait_for_selector(".wrong")
            expect("look again" in page.inner_text(".wrong"), f"a late change was made: {late}")
            expect(page.inner_text("h1") == label, "a late change was made")


def secured(browser: Browser, program: Path, shop: Path, folder: Path, key: str) -> None:
    """Over TLS the session's cookie is for this host alone, and never goes over a plain connection."""
    pem, private = certificate(folder)
    tls = ["--tls-certificate", str(pem), "--tls-key", str(private), "--keys-file", str(folder / "keys.json")]
    server = Console(program, shop, *tls)
    visit = Visit(browser, server, ("light", 1280))
    visit.sign_in(key)
    try_pictures(visit)
    [cookie] = visit.context.cookies()
    own = cookie["name"].startswith("__Host-") and cookie["secure"] and cookie["httpOnly"]
    expect(own and cookie["sameSite"] == "Strict", f"the cookie is {cookie['name']}: {cookie}")
    visit.page.click("text=Sign out")
    visit.page.wait_for_url("**/sign-in")
    visit.context.close()
    plain = server.console.replace("https://", "http://")
    try:
        urllib.request.urlopen(plain, timeout=10).close()
        expect(False, "the console answers without TLS")
    except (OSError, http.client.HTTPException):
        pass
    server.stop()


def check_pages(browser: Browser, server: Console, key: str, pictures: Path | None) -> None:
    axe = axe_source()
    for view in VIEWS:
        visit = Visit(browser, server, view)
        visit.page.goto(server.console)
        visit.check("sign-in", axe, pictures)
        visit.sign_in(key)
        visit.open("points")
        point = visit.page.inner_text("tbody tr:not(:has(.mark)) code")
        for path in PAGES:
            item = "images/gc_monuments_greatWall/g0_ref.jpg".replace("/", "%2F")
            if path == "try":
                try_pictures(visit)
            else:
                visit.open(path.format(point=point, item=item))
            visit.check(path.format(point="one", item=""), axe, pictures)
        visit.context.close()


def print_findings(browser: Browser, report: Path) -> None:
    """The findings of a drift report stand below each other on paper, and have no sheet each."""
    page = browser.new_page()
    page.goto(report.as_uri())
    findings = page.locator(".verdict").count()
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    expect(3 <= findings and sheets <= 3, f"a drift report of {findings} findings has {sheets} sheets")
    page.close()


def write_large(folder: Path) -> tuple[Path, Path]:
    """10,000 vectors of 2,000 labels."""
    count, dimension, draw = 10_000, 64, random.Random(1)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimension}), }}"
    header = header.ljust(118 - 1) + "\n"
    values = array.array("f", (draw.gauss(0, 1) for _ in range(count * dimension)))
    vectors, labels = folder / "large.npy", folder / "large.csv"
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    vectors.write_bytes(magic + header.encode() + values.tobytes())
    rows = "".join(f"item-{row:05},label-{row % 2000:04}\n" for row in range(count))
    labels.write_text("id,label\n" + rows, encoding="utf-8")
    return vectors, labels


def timed(server: Console, path: str) -> float:
    """The median time of a page, in milliseconds, over the loopback."""
    taken = []
    for _ in range(21):
        began = time.perf_counter()
        with urllib.request.urlopen(server.console + path) as answer:
            answer.read()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def measure(program: Path, folder: Path) -> None:
    vectors, labels = write_large(folder)
    large, photos = folder / "large", folder / "queue"
    make_points(program, photos)
    run(program, "build", large, "--embeddings", vectors, "--labels", labels, "--vectors-of", "random")
    items = ["gallery", "gallery?label=label-0007", "gallery?contains=99", "labels?contains=77"]
    items.append("gallery/doubts")
    queue = ["--audit-images", "true", "--audit-sampling-rates", "1,1,1,1,1,1"]
    for deployment, settings, paths in [
        (large, [], items),
        (photos, queue, ["label", "promise"]),
    ]:
        server = Console(program, deployment, *settings)
        warned = any("will see no pictures" in said for said in server.said)
        expect(warned == (not settings), f"without pictures to label the start says so: {server.said}")
        if settings:
            server.search([ENROLLED] * 1000)
        for path in paths:
            took = timed(server, f"/d/{deployment.name}/{path}")
            print(f"{deployment.name}/{path}: {took:.1f} ms")
            expect(took <= SERVER_MS_MAX, f"{path} took {took:.1f} ms, over {SERVER_MS_MAX:.0f}")
        server.stop()


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    program = arguments.program
    chromium = shutil.which("chromium")
    if not chromium:
        sys.exit("test_console.py: there is no chromium; install it (Debian: apt-get install chromium)")
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = folder / "shop"
        make_points(program, shop)
        keys = folder / "keys.json"
        made = run(program, "keys", "new", "anna", "--scopes", "all", "--json", "--keys-file", keys)
        key = json.loads(made)["key"]
        settings = ["--audit-images", "true", "--audit-sampling-rates", "1,1,1,1,1,1"]
        server = Console(program, shop, "--keys-file", str(keys), *settings)
        stack.callback(server.stop)
        with sync_playwright() as playwright:
            # In a container there is no namespace for its sandbox; it sees nothing but our own pages.
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            plain = Visit(browser, server, ("light", 1280))
            plain.sign_in(key)
            plain.page.goto(f"{server.console}/d/shop/label")
            expect("No decision has been sampled" in plain.page.inner_text("main"), "an empty queue says so")
            plain.page.close()
            server.search(photographs(90), "--api-key-file", str(write_key(folder, key)))
            labelling = Visit(browser, server, ("light", 1280))
            labelling.sign_in(key)
            label_by_keyboard(labelling)
            label_fifty(labelling)
            label_together(browser, labelling, key)
            choose_point(labelling)
            calibrate_from_folder(labelling, folder, arguments.pictures, axe_source())
            relabel(labelling)
            labelling.context.close()
            # What decides is another one now, and its own decisions wait for labels.
            server.search(photographs(60)[::6], "--api-key-file", str(write_key(folder, key)))
            check_pages(browser, server, key, arguments.pictures)
            report, key_file = folder / "drift.html", write_key(folder, key)
            asked = ["--server", server.calls, "--api-key-file", key_file, "--html", report]
            run(program, "drift", "report", *asked)
            print_findings(browser, report)
            server.stop()
            secured(browser, program, shop, folder, key)
            browser.close()
        measure(program, folder)
    print("the console: all is so" if not problems else f"the console: {len(problems)} things are not so")
    return 1 if problems else 0


def write_key(folder: Path, key: str) -> Path:
    path = folder / "anna.key"
    path.write_text(key, encoding="utf-8")
    path.chmod(0o600)
    return path


if __name__ == "__main__":
    sys.exit(main())
