// The console's own script. Every page works without it: this adds the keyboard, dropping and pasting, and answers
// that come without loading the page again.
"use strict";

// --- Pictures: dropped, pasted, previewed.

function take(zone, file) {
  const files = new DataTransfer();
  files.items.add(file);
  const input = zone.querySelector("input[type=file]");
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

function preview(zone, input) {
  const [file] = input.files;
  // One picture at a time, whichever way it came.
  for (const other of zone.querySelectorAll("input[type=file]")) {
    if (other !== input) other.value = "";
  }
  const image = zone.querySelector(".preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !file;
  if (file) image.src = URL.createObjectURL(file);
  else image.removeAttribute("src");
}

for (const zone of document.querySelectorAll(".drop")) {
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(zone, file);
  });
  zone.addEventListener("change", (event) => {
    preview(zone, event.target);
    const form = zone.closest("form.live");
    if (form && event.target.files.length && form.querySelector(".drop .preview[src]")) form.requestSubmit();
  });
}

document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  // Into the second place where that is open and empty, else into the first.
  const zones = [...document.querySelectorAll(".drop")].filter((zone) => zone.offsetParent);
  const free = zones.find((zone) => zone.querySelector(".preview").hidden);
  if (zones.length) take(free || zones[0], file);
});

// --- Forms whose answer takes the place of the last one.

let latest = 0;

async function ask(form) {
  const mine = ++latest;
  document.body.classList.add("busy");
  let answer;
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    answer = page.querySelector("#result") || page.querySelector("main");
  } catch (error) {
    answer = document.createElement("div");
    const said = document.createElement("p");
    said.className = "wrong";
    said.textContent = "The server did not answer. Try again.";
    answer.append(said);
  }
  if (mine !== latest) return;
  document.body.classList.remove("busy");
  const result = document.querySelector("#result");
  result.replaceChildren(...answer.childNodes);
  // On a phone it stands below the form.
  if (innerHeight * 0.75 < result.getBoundingClientRect().top) result.scrollIntoView();
}

for (const form of document.querySelectorAll("form.live")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(form);
  });
}

// --- Keys: a button or link with data-key is pressed by it, a field is entered by it.

function isTyping(element) {
  return element.matches("input:not([type=file], [type=checkbox]), textarea, select");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const focused = document.activeElement;
  if (focused && isTyping(focused)) {
    if (event.key === "Escape") focused.blur();
    return;
  }
  const wanted = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
  if (!wanted) return;
  event.preventDefault();
  const around = wanted.closest("details");
  if (around) around.open = true;
  wanted.focus();
  if (!isTyping(wanted)) wanted.click();
});

// --- Labels that are searched as one types.

for (const input of document.querySelectorAll("input[data-labels]")) {
  const list = document.getElementById(input.getAttribute("list"));
  let asked = 0;
  input.addEventListener("input", async () => {
    const mine = ++asked;
    const address = `${input.dataset.labels}?contains=${encodeURIComponent(input.value)}`;
    const response = await fetch(address).catch(() => null);
    if (!response || !response.ok || mine !== asked) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    list.replaceChildren(...page.querySelectorAll("option"));
  });
  // Where only enrolled labels will do, Enter takes the one that is left, and another Enter says it.
  input.addEventListener("keydown", (event) => {
    const [left, ...others] = list.children;
    if (event.key !== "Enter" || !("enrolled" in input.dataset) || !left || others.length) return;
    const typed = input.value.trim().toLowerCase();
    if (!typed || left.value === input.value || !left.value.toLowerCase().includes(typed)) return;
    event.preventDefault();
    input.value = left.value;
  });
}
