// The endless stream: so many on their way, more when half of them came.

import { Sequence, count, find, show } from './common.js';
import { drawSpark } from './chart.js';

// The last is beyond the slider: what comes then fills every buffer on the way, and
// all else on the link waits behind it. The test uses it, to see the server stop.
const WINDOWS = [1, 4, 16, 64, 256, 1024, 4096, Infinity];
// The most that one REQUEST_N can say.
const ALL = 2 ** 31 - 1;
const EVERY_MS = 500;
const VALUES = 60;

export class Numbers {
  received = 0;
  #window = 64;
  #outstanding = 0;
  #isRunning = false;
  #session;
  #stream = null;
  #rates = [];
  #counted = 0;
  #countedAt = performance.now();

  constructor(session) {
    this.#session = session;
    find('run').addEventListener('click', () => (this.#isRunning ? this.#stop() : this.#run()));
    find('window').addEventListener('input', ({ target }) => this.#resize(WINDOWS[target.value]));
    setInterval(() => this.#tell(), EVERY_MS);
  }

  get outstanding() {
    return this.#outstanding;
  }

  /** What was open in a session that is lost begins again in the next. */
  open() {
    this.#stream = null;
    this.#outstanding = 0;
    if (this.#isRunning) this.#run();
  }

  redraw() {
    drawSpark(find('spark'), this.#rates, VALUES, '--accent');
  }

  #run() {
    this.#isRunning = true;
    show('run', 'Stop');
    if (this.#stream) return this.#ask();
    if (!this.#session.isUp) return;
    const sequence = new Sequence();
    const n = Math.min(this.#window, ALL);
    this.#outstanding = n;
    const stream = this.#session.stream('numbers', n, ({ data }) => {
      sequence.see(data.readUInt32BE(0) * 2 ** 32 + data.readUInt32BE(4));
      this.received++;
      this.#outstanding--;
      if (this.#isRunning && this.#outstanding <= this.#window / 2) this.#ask();
    }, () => {
      if (this.#stream === stream) this.#stream = null;
    });
    this.#stream = stream;
  }

  /** What was asked for still comes; unless it was everything. */
  #stop() {
    this.#isRunning = false;
    show('run', 'Start');
    if (this.#outstanding > 4096) this.#cancel();
  }

  #cancel() {
    this.#stream?.cancel();
    this.#stream = null;
    this.#outstanding = 0;
  }

  #ask() {
    const n = Math.min(this.#window - this.#outstanding, ALL);
    if (n < 1) return;
    this.#outstanding += n;
    this.#stream?.request(n);
  }

  #resize(window) {
    this.#window = window;
    show('window-value', window === Infinity ? '2,147,483,647' : count(window));
    // What was granted cannot be taken back.
    if (this.#outstanding > 4096) this.#cancel();
    if (this.#isRunning) this.#run();
  }

  #tell() {
    const now = performance.now();
    const rate = ((this.received - this.#counted) * 1000) / (now - this.#countedAt);
    this.#counted = this.received;
    this.#countedAt = now;
    this.#rates.push(rate);
    if (this.#rates.length > VALUES) this.#rates.shift();
    show('numbers-rate', count(rate));
    show('numbers-received', count(this.received));
    this.redraw();
  }
}
