// Questions and answers.

import { count, find, show } from './common.js';

const MANY = 1000;

const millis = (ms) => (ms < 10 ? ms.toFixed(1) : ms.toFixed(0)) + ' ms';

export class Ask {
  #session;

  constructor(session) {
    this.#session = session;
    find('ask').addEventListener('submit', (event) => {
      event.preventDefault();
      if (find('question').value.trim()) this.#ask(find('question').value);
    });
    find('chips').addEventListener('click', ({ target }) => {
      if (target.tagName !== 'BUTTON') return;
      find('question').value = target.textContent;
      this.#ask(target.textContent);
    });
    find('many').addEventListener('click', () => this.#askMany());
  }

  async #ask(question) {
    const box = find('answer');
    const tell = (kind, words, note) => {
      const small = document.createElement('small');
      small.textContent = note;
      box.dataset.kind = kind;
      box.replaceChildren(words, small);
    };
    try {
      const { answer, ms } = await this.#session.ask('ask', question);
      tell('good', answer, `after ${millis(ms)}`);
    } catch (error) {
      const isCoded = Number.isInteger(error.code);
      tell('bad', error.message, isCoded ? `error 0x${error.code.toString(16).padStart(8, '0')} from the server` : 'no answer');
    }
  }

  /** One after the other, so that the times are those of single questions. */
  async #askMany() {
    const times = [];
    find('many').disabled = true;
    try {
      while (times.length < MANY) {
        times.push((await this.#session.ask('ask', 'once more')).ms);
        if (times.length % 100 === 0) show('many', `${count(times.length)} answered`);
      }
      times.sort((a, b) => a - b);
      show('median', millis(times[MANY / 2]));
      show('p99', millis(times[(MANY * 99) / 100]));
    } catch {
      show('median', '–');
      show('p99', '–');
    }
    show('many', `${count(MANY)} questions in turn`);
    find('many').disabled = false;
  }
}
