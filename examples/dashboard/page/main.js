// Puts the page together: one session, four uses of it, and what becomes of its link.

import { Ask } from './ask.js';
import { Chat } from './chat.js';
import { checks, count, find, show } from './common.js';
import { Machine } from './machine.js';
import { Numbers } from './numbers.js';
import { Session } from './session.js';

const session = new Session(new URL('rsocket', location.href.replace(/^http/, 'ws')).href, { open, cut, resumed, lost });
const machine = new Machine(session);
const numbers = new Numbers(session);
const chat = new Chat(session);
new Ask(session);

/** What was checked, and on its way, when the link was lost. */
let before = null;

function open() {
  machine.open();
  numbers.open();
  chat.open();
  state('up', 'connected');
  note(session.resumable ? 'a session that can be resumed' : 'a session that ends with its link');
  show('resent', 0);
  if (before) {
    verdict('warn', before.isChosen
      ? 'A new session.'
      : `Reconnected: a new session. ${count(before.outstanding)} items that were asked for never came; the streams began again at 0.`);
    machine.mark('new session', '--warn', { breaks: true, replaces: !before.isChosen });
  }
  before = null;
}

function cut() {
  before ??= { ...checks, outstanding: machine.outstanding + Math.min(numbers.outstanding, 4096) };
  state('cut', session.resumable ? 'link lost, coming back' : 'link lost');
  note('the link is cut');
  verdict('none', session.resumable ? 'The session waits on both sides …' : 'The session went with it …');
  machine.mark('cut', '--bad', { breaks: !session.resumable });
}

async function resumed(ms) {
  state('up', 'connected');
  note(`resumed after ${count(ms)} ms`);
  machine.mark('resumed', '--good', { replaces: true });
  const then = before ?? checks;
  before = null;
  try {
    // Its answer comes behind everything that is sent again.
    const counted = JSON.parse((await session.ask('session')).answer);
    show('resent', count(counted.frames_resent));
    const [missing, doubled] = [checks.missing - then.missing, checks.doubled - then.doubled];
    const isWhole = missing === 0 && doubled === 0;
    verdict(isWhole ? 'good' : 'bad', isWhole
      ? `Resumed after ${count(ms)} ms: nothing lost, nothing doubled. ${count(counted.frames_resent)} frames were sent again so far.`
      : `Resumed after ${count(ms)} ms, but ${count(missing)} items are missing and ${count(doubled)} came twice.`);
  } catch {
    // Cut again: the next one tells.
  }
}

function lost(error) {
  before ??= { ...checks, outstanding: machine.outstanding };
  state('cut', 'connecting again');
  note(session.resumable ? `the session is over: ${error?.message ?? 'closed'}` : 'the session is over');
  session.start();
}

function state(kind, words) {
  find('state').dataset.state = find('wire').dataset.state = kind;
  find('state').lastChild.textContent = words;
}

function verdict(kind, words) {
  find('verdict').dataset.kind = kind;
  show('verdict', words);
}

function note(words) {
  const line = document.createElement('li');
  const time = document.createElement('time');
  time.textContent = new Date().toTimeString().slice(0, 8);
  line.append(time, words);
  find('log').prepend(line);
  while (find('log').childElementCount > 8) find('log').lastChild.remove();
}

find('cut').addEventListener('click', () => session.cut());
find('resumable').addEventListener('change', ({ target }) => {
  before = { isChosen: true };
  session.end();
  session.resumable = target.checked;
  state('connecting', 'connecting');
  session.start();
});

setInterval(() => {
  show('checked', count(checks.items));
  show('missing', count(checks.missing));
  show('doubled', count(checks.doubled));
  show('links', count(session.links));
  show('resumed', count(session.resumptions));
  show('frames', count(session.frames));
}, 200);

// The look: as the system says, or as chosen.
const system = matchMedia('(prefers-color-scheme: dark)');
const THEMES = ['auto', 'light', 'dark'];
let theme = THEMES.includes(localStorage.getItem('theme')) ? localStorage.getItem('theme') : 'auto';

function dress() {
  const isDark = theme === 'dark' || (theme === 'auto' && system.matches);
  document.documentElement.dataset.theme = isDark ? 'dark' : 'light';
  find('theme').firstChild.textContent = theme;
  machine.redraw();
  numbers.redraw();
}

find('theme').addEventListener('click', () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  localStorage.setItem('theme', theme);
  dress();
});
system.addEventListener('change', dress);
dress();

// A page that is left takes its session with it; one that is shown again begins anew.
addEventListener('pagehide', () => session.end());
addEventListener('pageshow', ({ persisted }) => persisted && session.start());
session.start();
