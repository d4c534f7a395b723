// The sheet: strokes of mouse, finger or pen, or an image in their place.

const INK = "#111";
const LONGEST = 1024; // of an image that must be made smaller, in pixels
const SENT = 280; // of strokes: fourteen times what the network sees of a digit

export class Pad {
  #canvas;
  #strokes = []; // {width, points: [{x, y}, …]}
  #current = null;
  #image = null; // {blob, bitmap}; bitmap is null where the browser cannot show what the server can read
  #changed;

  /** `changed` is called when a stroke ends, is undone, or an image comes. */
  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.width = 0; // of the pen
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    canvas.addEventListener("lostpointercapture", () => this.#end()); // lifted, cancelled or gone
    this.#draw();
  }

  get empty() {
    return !this.#strokes.length && !this.#image;
  }

  undo() {
    if (!this.#strokes.pop()) this.#image = null;
    this.#update();
  }

  clear() {
    this.#strokes = [];
    this.#image = this.#current = null;
    this.#update();
  }

  /** Show an image instead of what is there; one of more than `most` bytes is made smaller. */
  async open(blob, most) {
    const bitmap = await createImageBitmap(blob).catch(() => null);
    this.#strokes = [];
    this.#image = { blob: blob.size > most && bitmap ? await shrunk(bitmap, LONGEST, "image/jpeg") : blob, bitmap };
    this.#update();
  }

  /** An image file of what is on the sheet: an image nobody has drawn upon as it came. */
  async content() {
    if (this.#image && !this.#strokes.length) return this.#image.blob;
    return shrunk(this.#canvas, this.#image ? LONGEST : SENT, "image/png");
  }

  #begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#current = { width: this.width, points: [this.#at(event)] };
    this.#strokes.push(this.#current);
    this.#draw();
  }

  #extend(event) {
    if (!this.#current || !event.isPrimary) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    this.#current.points.push(...(passed.length ? passed : [event]).map((each) => this.#at(each)));
    this.#draw();
  }

  #end() {
    if (!this.#current) return;
    this.#current = null;
    this.#update();
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.#canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.#canvas.height,
    };
  }

  #update() {
    this.#draw();
    this.#changed();
  }

  #draw() {
    const { width, height } = this.#canvas;
    const paint = this.#canvas.getContext("2d");
    paint.fillStyle = "#fff";
    paint.fillRect(0, 0, width, height);
    if (this.#image?.bitmap) {
      const { bitmap } = this.#image;
      const scale = Math.min(width / bitmap.width, height / bitmap.height);
      const [w, h] = [bitmap.width * scale, bitmap.height * scale];
      paint.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    }
    paint.strokeStyle = INK;
    paint.lineCap = paint.lineJoin = "round";
    for (const { width, points } of this.#strokes) {
      paint.lineWidth = width;
      paint.beginPath();
      paint.moveTo(points[0].x, points[0].y);
      points.slice(1, -1).forEach((p, i) => {
        const next = points[i + 2];
        paint.quadraticCurveTo(p.x, p.y, (p.x + next.x) / 2, (p.y + next.y) / 2);
      });
      paint.lineTo(points.at(-1).x, points.at(-1).y);
      paint.stroke();
    }
  }
}

async function shrunk(picture, longest, type) {
  const scale = Math.min(1, longest / Math.max(picture.width, picture.height));
  const small = new OffscreenCanvas(Math.ceil(picture.width * scale), Math.ceil(picture.height * scale));
  const paint = small.getContext("2d");
  paint.fillStyle = "#fff"; // JPEG has no transparency
  paint.fillRect(0, 0, small.width, small.height);
  paint.drawImage(picture, 0, 0, small.width, small.height);
  return small.convertToBlob({ type, quality: 0.9 });
}
