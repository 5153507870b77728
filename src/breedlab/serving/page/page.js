// The page's one script. It talks to the server that it came from and to nothing else.

const at = (id) => document.getElementById(id);
const [file, url, image, overlay, look] = ["file", "url", "image", "overlay", "look"].map(at);
const FLOOR = 320; // pixels: an image is not made smaller than this to fit the server's limit
const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // as .ramp in page.css

let key = sessionStorage.getItem("key"); // of the server, if it wants one: for this tab alone
let model; // what GET /model said
let upload; // the image as the server got it
let current; // the class whose explanation is shown or would be
let explanations = new Map(); // by class index, of this image
let turn = new AbortController(); // what is under way for this image

async function ask(path, options = {}) {
  let answer;
  try {
    const headers = { ...options.headers, ...(key && { "X-API-Key": key }) };
    answer = await fetch(path, { signal: turn.signal, ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    at("access").hidden = false;
    at("key").focus();
    throw new Error(key ? "That is not this server's API key." : "This server needs its API key.");
  }
  const content = await answer.json().catch(() => ({}));
  const why = content.error ?? `the server answered ${answer.status}`;
  const wait = answer.headers.get("Retry-After");
  throw new Error(`That did not work: ${why}${wait ? ` (try again in ${wait} s)` : ""}.`);
}

async function begin() {
  try {
    // An image that comes in meanwhile ends what was under way for the one before, but not this.
    model = await (await ask("model", { signal: null })).json();
  } catch (error) {
    at("which").textContent = "";
    return complain(error);
  }
  at("which").textContent = `${model.name}, with ${model.classes.length} classes.`;
  document.title = `breedlab: ${model.name}`;
  at("address").hidden = !model.urls;
  at("ways").textContent = `or drop one anywhere on this page, or paste one${model.urls ? " or its address" : ""}.`;
  at("unexplained").hidden = model.explains;
  for (const [name, value] of facts(model)) {
    const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, detail.textContent] = [name, value];
    at("facts").append(term, detail);
  }
}

function* facts({ name, classes, engine, lineage, test }) {
  yield ["Network", name];
  yield ["Classes", `${classes.length}: ${classes.slice(0, 12).join(", ")}${classes.length > 12 ? ", …" : ""}`];
  yield ["Engine", engine];
  if (lineage.experiment) yield ["Experiment", lineage.experiment];
  if (lineage.run) yield ["Run", lineage.run];
  if (lineage.started) yield ["Trained", new Date(lineage.started).toLocaleString()];
  if (lineage.git?.commit) yield ["Commit", lineage.git.commit.slice(0, 12) + (lineage.git.changed ? ", changed" : "")];
  if (lineage.data?.photos?.train) yield ["Images", `${lineage.data.photos.train} in training`];
  for (const [metric, value] of Object.entries(test)) yield [`Test ${metric}`, value];
}

// ---- an image comes in

async function show(blob, name) {
  turn.abort();
  turn = new AbortController();
  const mine = turn.signal;
  forget();
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.alt = `Your image: ${name}`;
  at("result").hidden = false;
  at("result").setAttribute("aria-busy", "true");
  say("Looking …");
  try {
    const visible = await image.decode().then(() => true, () => false);
    let note = visible ? "" : "This browser cannot show this kind of file; the server may be able to read it.";
    upload = blob;
    const large = blob.size > model?.max_bytes || image.naturalWidth * image.naturalHeight > model?.max_pixels;
    if (visible && large) {
      upload = await smaller(blob, model.max_bytes);
      note = "Sent at a smaller size: the image exceeds this server's limit.";
    }
    if (mine.aborted) return;
    at("note").textContent = note;
    const started = performance.now();
    const answer = await ask("invocations", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", Accept: "application/json; verbose=1" },
      body: upload,
    });
    const content = await answer.json();
    trust(content);
    list(top5(content), performance.now() - started, answer.headers.get("Server-Timing"));
  } catch (error) {
    if (error.name === "AbortError" || mine.aborted) return;
    at("result").hidden = !image.naturalWidth;
    complain(error);
  } finally {
    if (!mine.aborted) at("result").setAttribute("aria-busy", "false");
  }
}

async function smaller(blob, limit) {
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  for (let side = 2048; side >= FLOOR; side /= 2) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff"; // as the server lays transparency on white
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const copy = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    if (copy && copy.size <= limit) return copy;
  }
  throw new Error("The image exceeds this server's limit and could not be made small enough.");
}

async function fetched(address) {
  turn.abort();
  turn = new AbortController();
  say("Fetching …");
  complain();
  try {
    const answer = await ask("photo", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ url: address }),
    });
    await show(await answer.blob(), address);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

// ---- the answer

function top5(content) {
  return content.predictions[0].top.slice(0, 5);
}

// What the model says besides its scores: that it knows nothing like the image, which labels it gives it, or which
// classes it cannot tell apart.
function trust({ predictions: [one], set_coverage: coverage }) {
  at("unknown").hidden = !one.unknown;
  at("unknown").textContent = one.unknown
    ? `Unknown: it is unlike the images of every class (more so than ${(100 * one.stranger_than).toFixed(1)}% of the validation images).`
    : "";
  if (one.labels) {
    at("set").hidden = false;
    at("set").textContent = one.labels.length ? `Labels: ${one.labels.join(", ")}.` : "None of the labels.";
    return;
  }
  const several = !one.unknown && one.set?.length > 1;
  at("set").hidden = !several;
  at("set").textContent = several
    ? `One of these ${one.set.length}, ${Math.round(100 * coverage)}% sure: ${one.set.slice(0, 12).join(", ")}${one.set.length > 12 ? ", …" : ""}.`
    : "";
}

function list(best, milliseconds, timing) {
  at("classes").replaceChildren(...best.map((one) => {
    const [item, button] = [document.createElement("li"), document.createElement("button")];
    const [name, share, track, bar] = ["span", "span", "span", "span"].map((tag) => document.createElement(tag));
    name.textContent = one.class;
    share.textContent = percent(one.probability);
    [share.className, track.className, bar.className] = ["share", "track", "bar"];
    bar.style.width = "0";
    requestAnimationFrame(() => { bar.style.width = `${100 * one.probability}%`; });
    track.append(bar);
    button.type = "button";
    button.dataset.index = one.index;
    button.disabled = !model?.explains;
    button.append(name, " ", share, track);
    button.addEventListener("click", () => explain(one));
    item.append(button);
    return item;
  }));
  current = best[0];
  const inside = /total;dur=([\d.]+)/.exec(timing ?? "");
  at("latency").textContent = `Answered in ${Math.round(milliseconds)} ms${inside ? `, ${Math.round(inside[1])} of them in the server` : ""}.`;
  at("explaining").hidden = !model?.explains;
  at("answers").hidden = false;
  say(at("unknown").textContent + (at("unknown").hidden ? "" : " The most likely class: ") +
    `${best[0].class}, ${percent(best[0].probability)}. ` +
    `Then ${best.slice(1, 3).map((one) => `${one.class}, ${percent(one.probability)}`).join("; ")}.`);
}

const percent = (share) => (share < 0.001 ? "below 0.1%" : `${(100 * share).toFixed(1)}%`);

// ---- what the model looked at

async function explain(one) {
  current = one;
  const mine = turn.signal;
  complain();
  try {
    if (!explanations.has(one.index)) {
      say(`Computing the explanation for ${one.class} …`);
      const answer = await ask(`explain?class=${one.index}`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream" },
        body: upload,
      });
      const explanation = await answer.json();
      if (mine.aborted) return;
      explanations.set(one.index, explanation);
    }
    if (current !== one) return;
    overlay.hidden = at("tuning").hidden = false;
    draw();
    mark(true);
    overlay.setAttribute("aria-label", where(explanations.get(one.index)));
    say(where(explanations.get(one.index)));
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

function hide() {
  overlay.hidden = at("tuning").hidden = true;
  mark(false);
  say("The overlay is off.");
}

function mark(on) {
  look.setAttribute("aria-pressed", String(on));
  for (const button of at("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(on && Number(button.dataset.index) === current.index));
  }
}

function where({ class: name, heat, box }) {
  let best = { value: 0 };
  heat.forEach((row, y) => row.forEach((value, x) => { if (value > best.value) best = { value, x, y }; }));
  if (!best.value) return `Nothing in the image supports ${name}.`;
  const third = (place) => Math.min(2, Math.max(0, Math.floor(3 * place)));
  const x = third(box.x + (box.width * (best.x + 0.5)) / heat[0].length);
  const y = third(box.y + (box.height * (best.y + 0.5)) / heat.length);
  const words = [["upper left", "upper middle", "upper right"], ["left", "center", "right"],
    ["lower left", "lower middle", "lower right"]];
  return `The strongest evidence for ${name} is in the ${words[y][x]} of the image.`;
}

// The heat map has few cells; between their centers it is blended smoothly, and the cut is shown as it was.
function draw() {
  const explanation = explanations.get(current?.index);
  if (!explanation || overlay.hidden) return;
  const [heat, rows, columns] = [explanation.heat, explanation.heat.length, explanation.heat[0].length];
  const side = 160;
  const small = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const pixels = new ImageData(side, side);
  for (let i = 0; i < side * side; i += 1) {
    const value = blend(heat, rows, columns, ((i % side) + 0.5) / side, (Math.floor(i / side) + 0.5) / side);
    const step = Math.min(RAMP.length - 2, Math.floor(value * (RAMP.length - 1)));
    const part = value * (RAMP.length - 1) - step;
    for (let c = 0; c < 3; c += 1) pixels.data[4 * i + c] = RAMP[step][c] * (1 - part) + RAMP[step + 1][c] * part;
    pixels.data[4 * i + 3] = 255 * (0.55 + 0.2 * value);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const { width, height } = image.getBoundingClientRect();
  overlay.width = Math.round(width * devicePixelRatio);
  overlay.height = Math.round(height * devicePixelRatio);
  const pen = overlay.getContext("2d");
  const [left, top] = [explanation.box.x * overlay.width, explanation.box.y * overlay.height];
  const [across, down] = [explanation.box.width * overlay.width, explanation.box.height * overlay.height];
  pen.fillStyle = "rgba(0, 0, 0, 0.7)";
  pen.fillRect(0, 0, overlay.width, overlay.height);
  pen.clearRect(left, top, across, down);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, left, top, across, down);
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2 * devicePixelRatio;
  pen.setLineDash([6 * devicePixelRatio, 5 * devicePixelRatio]);
  pen.strokeRect(left + 1, top + 1, across - 2, down - 2);
  overlay.style.opacity = at("strength").value / 100;
}

function blend(heat, rows, columns, x, y) {
  const along = (place, count) => {
    const exact = Math.min(count - 1, Math.max(0, place * count - 0.5));
    const low = Math.min(Math.floor(exact), Math.max(0, count - 2));
    const part = exact - low;
    return [low, Math.min(low + 1, count - 1), part * part * (3 - 2 * part)];
  };
  const [top, bottom, down] = along(y, rows);
  const [left, right, across] = along(x, columns);
  const mix = (row) => heat[row][left] * (1 - across) + heat[row][right] * across;
  return mix(top) * (1 - down) + mix(bottom) * down;
}

// ---- words and states

function say(text) { at("status").textContent = text; }

function complain(error) {
  at("problem").textContent = error ? error.message : "";
  if (error) say("");
}

function forget() {
  complain();
  explanations = new Map();
  current = undefined;
  overlay.hidden = at("tuning").hidden = at("explaining").hidden = true;
  look.setAttribute("aria-pressed", "false");
  at("classes").replaceChildren();
  at("answers").hidden = true;
  for (const id of ["latency", "note"]) at(id).textContent = "";
}

function take(files, from) {
  const picture = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (picture) show(picture, picture.name || from);
  else complain(new Error(`There was no image in what was ${from}.`));
}

file.addEventListener("change", () => { if (file.files.length) take(file.files, "chosen"); file.value = ""; });
at("address").addEventListener("submit", (event) => { event.preventDefault(); fetched(url.value.trim()); });
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", (key = at("key").value.trim()));
  at("access").hidden = true;
  at("problem").textContent = "";
  begin();
});
look.addEventListener("click", () => (look.getAttribute("aria-pressed") === "true" ? hide() : explain(current)));
at("strength").addEventListener("input", () => { overlay.style.opacity = at("strength").value / 100; });
new ResizeObserver(draw).observe(image);

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) return take(event.clipboardData.files, "pasted");
  const text = event.clipboardData.getData("text").trim();
  if (event.target === url || event.target === at("key")) return undefined;
  if (/^https?:\/\/\S+$/.test(text) && model?.urls) return fetched((url.value = text));
  return take([], "pasted");
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files, "dropped");
});

begin();
