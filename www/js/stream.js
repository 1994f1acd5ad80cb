// Text that arrives faster than it can be read: put on the page once a frame, and scrolled along with only while the
// reader is at the end.

/** Pixels from the end at which a reader counts as being there. */
const NEAR = 48;

/** Resolves at once where the page is seen, else when it is: nobody needs text written in a hidden tab. */
export function seen() {
  if (!document.hidden) return undefined;
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      done();
    };
    document.addEventListener('visibilitychange', look);
  });
}

/** Keeps a scrolling element at its end while the reader leaves it there. */
export class Follower {
  #element;
  #follows = true;
  #changed;

  /** `changed(follows)` says when the reader leaves the end or comes back to it. */
  constructor(element, changed = () => {}) {
    this.#element = element;
    this.#changed = changed;
    element.addEventListener('scroll', () => this.#set(element.scrollHeight - element.scrollTop - element.clientHeight < NEAR), { passive: true });
  }

  /** Call after text was added. */
  added() {
    if (this.#follows) this.#element.scrollTop = this.#element.scrollHeight;
  }

  /** Goes to the end and stays there. */
  toEnd() {
    this.#set(true);
    this.added();
  }

  #set(follows) {
    if (follows === this.#follows) return;
    this.#follows = follows;
    this.#changed(follows);
  }
}

/** Collects text and hands it on once a frame. */
export class Frames {
  #text = '';
  #frame = 0;
  #write;

  constructor(write) {
    this.#write = write;
  }

  add(text) {
    this.#text += text;
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Hands on what is there now. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const text = this.#text;
    this.#text = '';
    if (text) this.#write(text);
  }
}
