// The chat: a channel, on which both sides say how much they take.

import { find } from './common.js';
import { payload, text } from './session.js';

const AHEAD = 32;
const KEPT = 100;

/** This tab: the same after a reload, another in each tab. */
function identity() {
  try {
    const known = JSON.parse(sessionStorage.getItem('chat'));
    if (known?.id && known.name) return known;
  } catch {
    // Then it is a new one.
  }
  const number = crypto.getRandomValues(new Uint16Array(1))[0];
  return { id: crypto.randomUUID(), name: `Guest ${(number % 900) + 100}` };
}

export class Chat {
  #session;
  #me = identity();
  #stream = null;
  #unsent = [];
  #credit = 0;
  #asked = 0;
  #hasBeenHere = false;

  constructor(session) {
    this.#session = session;
    find('name').value = this.#me.name;
    find('name').addEventListener('change', ({ target }) => {
      this.#me.name = target.value.trim() || this.#me.name;
      this.#keep();
    });
    find('say').addEventListener('submit', (event) => {
      event.preventDefault();
      const words = find('words').value.trim();
      if (!words) return;
      find('words').value = '';
      this.#say({ text: words });
    });
    this.#keep();
  }

  open() {
    find('heard').replaceChildren();
    this.#credit = 0;
    this.#asked = AHEAD;
    const first = { ...this.#me, event: this.#hasBeenHere ? 'is back' : 'is here' };
    this.#hasBeenHere = true;
    const stream = this.#session.channel(JSON.stringify(first), AHEAD, {
      onNext: (item) => this.#hear(item),
      onEnd: () => {
        if (this.#stream === stream) this.#stream = null;
      },
      request: (n) => {
        this.#credit += n;
        this.#send();
      },
    });
    this.#stream = stream;
  }

  /** Waits here until the server has asked for it, or there is a session again. */
  #say(words) {
    this.#unsent.push(JSON.stringify({ ...this.#me, ...words }));
    if (this.#unsent.length > KEPT) this.#unsent.shift();
    this.#send();
  }

  #send() {
    while (this.#stream && this.#credit > 0 && this.#unsent.length > 0) {
      this.#credit--;
      this.#stream.onNext(payload(null, this.#unsent.shift()), false);
    }
  }

  #hear(item) {
    if (--this.#asked <= AHEAD / 2) {
      this.#stream?.request(AHEAD - this.#asked);
      this.#asked = AHEAD;
    }
    let said;
    try {
      said = JSON.parse(text(item));
    } catch {
      return; // Not from a page like this one.
    }
    const line = document.createElement('li');
    const name = String(said.name).slice(0, 20);
    if (said.event) {
      line.className = 'event';
      line.textContent = `${name} ${said.event}`;
    } else {
      const who = document.createElement('b');
      who.textContent = name;
      line.className = said.id === this.#me.id ? 'mine' : '';
      line.append(who, String(said.text));
    }
    const list = find('heard');
    list.append(line);
    while (list.childElementCount > KEPT) list.firstChild.remove();
    list.scrollTop = list.scrollHeight;
  }

  #keep() {
    try {
      sessionStorage.setItem('chat', JSON.stringify(this.#me));
    } catch {
      // Then a reload makes a new guest.
    }
  }
}
