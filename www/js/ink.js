// A pad for drawing with mouse, pen, touch and keys. Strokes are lists of points in units of the pad's side, so that the
// drawing survives a change of size; the network's picture is drawn from them anew, in grey, whatever the page's colours are.

/** Width of the pen, in sides of the pad. */
const PEN = 0.07;
/** Pixels of a side of the picture for the network: ten for each of its own. */
const SIDE = 280;
/** How far an arrow key moves the pen. */
const STEP = 1 / 28;

export class Pad {
  /** @type {number[][][]} */
  strokes = [];
  #canvas;
  #context;
  #changed;
  #said;
  #pointer;
  #cursor = { x: 0.5, y: 0.25, shown: false, down: false };
  #grey = Object.assign(document.createElement('canvas'), { width: SIDE, height: SIDE }).getContext('2d', { willReadFrequently: true });
  #frame = 0;
  #showing = 0;

  /** `changed(done)` is called after each change, with `done` when the pen is up; `said` with words for a screen reader. */
  constructor(canvas, { changed, said }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d');
    this.#changed = changed;
    this.#said = said;
    canvas.addEventListener('pointerdown', (event) => this.#begin(event));
    canvas.addEventListener('pointermove', (event) => this.#go(event));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (event) => this.#end(event));
    canvas.addEventListener('keydown', (event) => this.#key(event));
    canvas.addEventListener('blur', () => this.#hideCursor());
    new ResizeObserver(() => this.#resize()).observe(canvas);
    addEventListener('themechange', () => this.#redraw());
  }

  /** Takes the last stroke away. */
  undo() {
    this.#stopShow();
    this.strokes.pop();
    this.#cursor.down = false;
    this.#update(true);
  }

  /** Takes all away. */
  clear() {
    this.#stopShow();
    this.strokes = [];
    this.#cursor.down = false;
    this.#update(true);
  }

  /** Draws strokes one point after another, as a hand would, or at once. */
  show(strokes, atOnce) {
    this.clear();
    if (atOnce) {
      this.strokes = structuredClone(strokes);
      return this.#update(true);
    }
    const total = strokes.reduce((sum, stroke) => sum + stroke.length, 0);
    const start = performance.now();
    const step = (now) => {
      let left = Math.ceil(Math.min(1, Math.max(0, now - start) / 450) * total);
      this.strokes = strokes.map((stroke) => stroke.slice(0, (left -= stroke.length) < 0 ? Math.max(0, stroke.length + left) : undefined)).filter((stroke) => stroke.length > 0);
      const done = now - start >= 450;
      this.#showing = done ? 0 : requestAnimationFrame(step);
      this.#update(done);
    };
    this.#showing = requestAnimationFrame(step);
  }

  /** The drawing for the network: grey, light ink on black. */
  picture() {
    const { data } = this.#paint(this.#grey, SIDE, '#fff').getImageData(0, 0, SIDE, SIDE);
    const grey = new Uint8Array(SIDE * SIDE);
    for (let i = 0; i < grey.length; i += 1) grey[i] = data[4 * i + 3];
    return { data: grey, width: SIDE, height: SIDE, ink: 'light' };
  }

  #begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    this.#stopShow();
    this.#hideCursor();
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.strokes.push([this.#point(event)]);
    this.#update(false);
  }

  #go(event) {
    if (event.pointerId !== this.#pointer) return;
    const stroke = this.strokes.at(-1);
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length > 0 ? events : [event]) {
      const [x, y] = this.#point(each);
      const [lastX, lastY] = stroke.at(-1);
      if (Math.hypot(x - lastX, y - lastY) > 0.004) stroke.push([x, y]);
    }
    this.#update(false);
  }

  #end(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = undefined;
    this.#update(true);
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const cursor = this.#cursor;
    const move = moves[event.key];
    if (move) {
      const far = event.shiftKey ? 3 * STEP : STEP;
      cursor.x = Math.min(1, Math.max(0, cursor.x + move[0] * far));
      cursor.y = Math.min(1, Math.max(0, cursor.y + move[1] * far));
      cursor.shown = true;
      if (cursor.down) this.strokes.at(-1).push([cursor.x, cursor.y]);
      this.#update(false);
    } else if (event.key === ' ') {
      this.#stopShow();
      cursor.shown = true;
      cursor.down = !cursor.down;
      if (cursor.down) this.strokes.push([[cursor.x, cursor.y]]);
      this.#said(cursor.down ? 'Pen down' : 'Pen up');
      this.#update(!cursor.down);
    } else if (event.key === 'Backspace' || (event.key === 'z' && (event.ctrlKey || event.metaKey))) {
      this.undo();
      this.#said(this.strokes.length > 0 ? 'Stroke removed' : 'The pad is empty');
    } else if (event.key === 'Delete' || event.key === 'Escape') {
      this.clear();
      this.#said('The pad is empty');
    } else return;
    event.preventDefault();
  }

  #hideCursor() {
    if (!this.#cursor.shown) return;
    this.#cursor.shown = this.#cursor.down = false;
    this.#update(true);
  }

  #stopShow() {
    cancelAnimationFrame(this.#showing);
    this.#showing = 0;
  }

  #update(done) {
    this.#redraw();
    this.#changed(done);
  }

  #resize() {
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (side > 0 && side !== this.#canvas.width) {
      this.#canvas.width = this.#canvas.height = side;
      this.#paintPage();
    }
  }

  #redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paintPage();
    });
  }

  #paintPage() {
    const side = this.#canvas.width;
    const style = getComputedStyle(this.#canvas);
    const context = this.#paint(this.#context, side, style.color);
    const { x, y, shown, down } = this.#cursor;
    if (!shown) return;
    context.strokeStyle = context.fillStyle = style.getPropertyValue('outline-color');
    context.lineWidth = side / 200;
    context.beginPath();
    context.arc(x * side, y * side, (PEN / 2) * side, 0, 2 * Math.PI);
    if (down) context.fill();
    else context.stroke();
  }

  #paint(context, side, colour) {
    context.clearRect(0, 0, side, side);
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = PEN * side;
    context.lineCap = context.lineJoin = 'round';
    for (const stroke of this.strokes) {
      const points = stroke.map(([x, y]) => [x * side, y * side]);
      context.beginPath();
      if (points.length === 1) {
        context.arc(...points[0], context.lineWidth / 2, 0, 2 * Math.PI);
        context.fill();
        continue;
      }
      // Through the middles of neighbouring points, bent towards the points: smooth whatever the mouse delivers.
      context.moveTo(...points[0]);
      for (let i = 1; i < points.length - 1; i += 1) {
        const [x, y] = points[i];
        context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
      }
      context.lineTo(...points.at(-1));
      context.stroke();
    }
    return context;
  }
}
