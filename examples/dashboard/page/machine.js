// The stream of samples: asked for at a pace, or by hand.

import { Sequence, bytes, count, find, short, show } from './common.js';
import { drawLanes } from './chart.js';
import { text } from './session.js';

const SPAN = 30_000;
const TAPE = 40;

const LANES = [
  { label: 'CPU, %', tone: '--accent', max: 100, of: (sample) => sample.cpu },
  { label: 'context switches a second', tone: '--second', least: 1000, of: (sample) => sample.switches },
  { label: 'how late a timer fires, ms', tone: '--third', least: 5, of: (sample) => sample.late / 1000 },
];

const TILES = [
  ['CPU', '--accent', ({ cpu }) => cpu !== null && [cpu.toFixed(0), '%']],
  ['switches / s', '--second', ({ switches }) => switches !== null && [short(switches), '']],
  ['timer late by', '--third', ({ late }) => [(late / 1000).toFixed(1), 'ms']],
  ['memory used', '--line', ({ memory }) => memory && [(memory[0] / 1024 ** 3).toFixed(1), `of ${bytes(memory[1])}`]],
  ['load', '--line', ({ load }) => load !== null && [load.toFixed(2), '']],
];

export class Machine {
  granted = 0;
  received = 0;
  pace = 10;
  isPaused = false;
  #session;
  #stream = null;
  #sequence = null;
  #points = [];
  #marks = [];
  #arrivals = [];
  #owed = 0;
  #paced = performance.now();
  #isDrawn = false;

  constructor(session) {
    this.#session = session;
    find('tape').append(...Array.from({ length: TAPE }, () => document.createElement('i')));
    find('tiles').append(...TILES.map(([label, tone]) => tile(label, tone)));
    find('pace').addEventListener('input', ({ target }) => this.#setPace(Number(target.value)));
    find('pause').addEventListener('click', () => this.#setPaused(!this.isPaused));
    for (const button of document.querySelectorAll('[data-grant]')) {
      button.addEventListener('click', () => this.#grant(Number(button.dataset.grant)));
    }
    setInterval(() => this.#ask(), 50);
    setInterval(() => this.#tell(), 200);
    new ResizeObserver(() => this.redraw()).observe(find('chart'));
  }

  get outstanding() {
    return this.granted - this.received;
  }

  /** Asks for one; `#ask` goes on from there. */
  open() {
    const sequence = new Sequence();
    this.#sequence = sequence;
    this.granted = 1;
    this.received = 0;
    this.#stream = this.#session.stream('machine', 1, (item) => this.#take(sequence, item), () => {
      if (this.#sequence === sequence) this.#stream = null;
    });
    this.#tell();
  }

  /** Marks the time after the newest sample. What replaces the mark of a cut says so. */
  mark(label, tone, { breaks = false, replaces = false } = {}) {
    const at = this.#points.at(-1)?.at;
    if (!at) return;
    if (replaces) this.#marks.pop();
    this.#marks.push({ at: at + 1, label, tone, breaks });
    this.redraw();
  }

  /** In the next frame that the browser paints, if it paints at all. */
  redraw() {
    if (this.#isDrawn) return;
    this.#isDrawn = true;
    requestAnimationFrame(() => {
      this.#isDrawn = false;
      drawLanes(find('chart'), { points: this.#points, lanes: LANES, marks: this.#marks, span: SPAN, format: short });
    });
  }

  #take(sequence, item) {
    const { seq, sample } = JSON.parse(text(item));
    sequence.see(seq);
    this.received++;
    this.#arrivals.push(performance.now());
    this.#points.push(sample);
    while (this.#points[0].at < sample.at - SPAN - 2_000) this.#points.shift();
    this.#marks = this.#marks.filter((mark) => mark.at > sample.at - SPAN);
    TILES.forEach(([, , of], index) => {
      const [value, unit] = of(sample) || ['–', ''];
      const [figure, small] = find('tiles').children[index].lastChild.childNodes;
      figure.data = value + ' ';
      small.textContent = unit;
    });
    if (sample.server !== null) show('memory', bytes(sample.server));
    this.redraw();
  }

  #grant(n) {
    if (!this.#stream || n < 1) return;
    this.granted += n;
    this.#stream.request(n);
  }

  /** At the pace, and never more than a second's worth ahead. */
  #ask() {
    const now = performance.now();
    const passed = (now - this.#paced) / 1000;
    this.#paced = now;
    if (this.isPaused || !this.#session.isUp) {
      this.#owed = 0;
      return;
    }
    this.#owed = Math.min(this.#owed + this.pace * passed, this.pace);
    const due = Math.floor(this.#owed);
    this.#owed -= due;
    this.#grant(Math.min(due, this.pace - this.outstanding));
  }

  #setPace(pace) {
    this.pace = pace;
    show('pace-value', pace);
  }

  #setPaused(isPaused) {
    this.isPaused = isPaused;
    show('pause', isPaused ? 'Go on' : 'Pause');
    find('pause').setAttribute('aria-pressed', isPaused);
    show('machine-note', isPaused
      ? 'Nothing is asked for, so nothing is sent. Ask by hand, and see each item use up what was asked for.'
      : 'The server samples 20 times a second and sends what this page has asked for, never more.');
  }

  #tell() {
    const since = performance.now() - 2_000;
    while (this.#arrivals[0] < since) this.#arrivals.shift();
    show('granted', count(this.granted));
    show('received', count(this.received));
    show('rate', (this.#arrivals.length / 2).toFixed(1));
    find('tape').childNodes.forEach((square, index) => square.classList.toggle('on', index < this.outstanding));
    find('wire').toggleAttribute('data-idle', this.#arrivals.length === 0);
  }
}

function tile(label, tone) {
  const tile = document.createElement('div');
  tile.style.setProperty('--tone', `var(${tone})`);
  const [name, figure] = [document.createElement('dt'), document.createElement('dd')];
  name.textContent = label;
  figure.append('– ', document.createElement('small'));
  tile.append(name, figure);
  return tile;
}
