import { Pad } from "./pad.js";

const $ = (selector, within = document) => within.querySelector(selector);
const SOON = 250; // ms after a stroke: the next one of the same digit may follow
const KINDS = { last_block: "last block", rollout: "rollout" };

const answers = $("#answers");
const status = $("#status");
const most = Number($("main").dataset.maxBody);
let timer = 0;
let asking = new AbortController();

const pad = new Pad($("#pad"), () => {
  $("#hint").hidden = !pad.empty;
  asking.abort();
  clearTimeout(timer);
  if (pad.empty) forget();
  else timer = setTimeout(recognise, SOON);
});

async function recognise() {
  clearTimeout(timer);
  asking.abort();
  if (pad.empty) return say("Nothing is drawn yet: draw a digit, or open an image.", true);
  asking = new AbortController();
  const { signal } = asking;
  answers.ariaBusy = "true";
  try {
    const body = await pad.content();
    if (body.size > most) throw new Error(`The image has more than ${most.toLocaleString("en")} bytes.`);
    const response = await fetch("/predict", { method: "POST", body, signal });
    const said = await response.json();
    if (!response.ok) throw new Error(said.error);
    show(said);
  } catch (error) {
    if (signal.aborted) return;
    forget();
    say(error instanceof TypeError ? "The server does not answer; is vitbn serve still running?" : error.message, true);
  }
  if (!signal.aborted) answers.ariaBusy = "false";
}

function say(words, isError = false) {
  status.textContent = words;
  status.classList.toggle("unseen", !isError);
}

const percent = (value) => `${(100 * value).toFixed(1)}%`;

function show({ models, seen }) {
  const picture = drawSeen(seen);
  models.forEach((model, index) => showModel(answers.children[index], model, picture));
  say(models.map((model) => `${model.name}: ${model.digit}, ${percent(model.probability)}`).join(". "));
}

function showModel(card, model, picture) {
  $(".digit", card).textContent = model.digit;
  $(".sure", card).textContent = percent(model.probability);
  card.querySelectorAll(".bars li").forEach((bar, digit) => {
    const chance = model.probabilities[digit];
    bar.classList.toggle("best", digit === model.digit);
    $(".bar", bar).style.width = `${100 * chance}%`;
    $(".chance", bar).textContent = percent(chance);
  });
  const { attention } = model;
  $(".attention", card).hidden = !attention;
  if (!attention) return;
  $(".of", card).textContent = attention.of;
  const colour = getComputedStyle(card).getPropertyValue("--colour");
  for (const [kind, name] of Object.entries(KINDS)) {
    const canvas = $(`.${kind}`, card);
    const peak = Math.max(...attention[kind].flat());
    drawAttention(canvas, attention[kind], peak, picture, colour);
    canvas.ariaLabel = `Attention, ${name}: the most attended patch gets ${percent(peak)}`;
    canvas.nextElementSibling.textContent = `${name}, peak\u00a0${percent(peak)}`;
  }
}

/** White ink on black as the network gets it; returns the same as grey ink to lay attention over. */
function drawSeen(seen) {
  const canvas = $("#seen");
  const paint = canvas.getContext("2d");
  const inverse = new ImageData(28, 28);
  const pixels = new ImageData(28, 28);
  seen.flat().forEach((value, i) => {
    pixels.data.set([value, value, value, 255], 4 * i);
    const light = 255 - 0.75 * value;
    inverse.data.set([light, light, light, 255], 4 * i);
  });
  paint.putImageData(pixels, 0, 0);
  canvas.ariaLabel = "What the network saw: your digit in 28 by 28 pixels";
  const small = new OffscreenCanvas(28, 28);
  small.getContext("2d").putImageData(inverse, 0, 0);
  return small;
}

function drawAttention(canvas, weights, peak, picture, colour) {
  const paint = canvas.getContext("2d");
  const side = canvas.width / weights.length;
  paint.imageSmoothingEnabled = false;
  paint.globalAlpha = 1;
  paint.drawImage(picture, 0, 0, canvas.width, canvas.height);
  paint.fillStyle = colour;
  weights.forEach((row, y) =>
    row.forEach((weight, x) => {
      paint.globalAlpha = (0.8 * weight) / peak;
      paint.fillRect(x * side, y * side, side, side);
    }),
  );
  paint.globalAlpha = 1;
  paint.fillStyle = "#fff"; // lines between the patches
  for (let line = 1; line < weights.length; line++) {
    paint.fillRect(line * side - 1, 0, 2, canvas.height);
    paint.fillRect(0, line * side - 1, canvas.width, 2);
  }
}

function forget() {
  answers.ariaBusy = "false";
  say("");
  for (const card of answers.children) {
    $(".digit", card).textContent = "–";
    $(".sure", card).textContent = "";
    $(".attention", card).hidden = true;
    for (const bar of card.querySelectorAll(".bars li")) {
      bar.classList.remove("best");
      $(".bar", bar).style.width = "0";
      $(".chance", bar).textContent = "";
    }
  }
  $("#seen").getContext("2d").clearRect(0, 0, 28, 28);
  $("#seen").ariaLabel = "What the network saw: nothing yet";
}

function choosePen() {
  pad.width = Number($("input[name=pen]:checked").value);
}

async function open(files) {
  const [file] = files;
  if (file) await pad.open(file, most);
}

choosePen();
$(".pens").addEventListener("change", choosePen);
$("#undo").addEventListener("click", () => pad.undo());
$("#clear").addEventListener("click", () => pad.clear());
$("#recognise").addEventListener("click", recognise);
$("#file").addEventListener("change", async ({ target }) => {
  await open(target.files);
  target.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => open(clipboardData.files));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  open(event.dataTransfer.files);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") pad.clear();
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) pad.undo();
  else if (event.key === "Enter" && !event.target.closest("button, #file")) recognise();
  else return;
  event.preventDefault();
});
