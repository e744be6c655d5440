// Uses the page as a person would, in Chromium, against the real server.
//
//   node test/run.mjs [--server PROGRAM] [--chromium PROGRAM] [--page FILE] [--shots FOLDER]
//
// Prints what it saw, writes screenshots if it is told where, and ends with status
// 1 if anything was not as it should be. With `--page` the browser gets that file for
// the page that the program was built with.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { Network, Server } from './network.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
const { values: options } = parseArgs({
  options: {
    server: { type: 'string', default: path.join(target, 'release/examples/dashboard') },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
    page: { type: 'string' },
    shots: { type: 'string' },
  },
});

const PATIENCE_MS = 30_000;

// A page that goes while the server writes to it may not be heard: its last word is lost with the socket. The
// server then keeps its session for 60 s.
const SESSION_MS = 90_000;
// How long the page reads nothing.
const BLOCKED_MS = 4_000;
const MIB = 1024 ** 2;

// ------------------------------------------------------------- what pages show

class Page {
  problems = [];
  #page;

  static async open(browser, url, settings = {}) {
    const opened = new Page();
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...settings });
    const page = (opened.#page = await context.newPage());
    page.setDefaultTimeout(PATIENCE_MS);
    page.on('pageerror', (error) => opened.problems.push(String(error)));
    page.on('console', (message) => {
      // Chromium itself tells of connections that fail, which here is the point.
      if (message.type() === 'error' && !/WebSocket connection/.test(message.text())) opened.problems.push(message.text());
    });
    page.on('request', (request) => {
      if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin) {
        opened.problems.push(`asked for ${request.url()}`);
      }
    });
    opened.keepalives = 0;
    page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => {
      if (Buffer.isBuffer(payload) && payload.readUInt32BE(0) === 0 && payload.readUInt16BE(4) >> 10 === 3) opened.keepalives++;
    }));
    if (options.page) await page.route(url + '/', (route) => route.fulfill({ path: options.page, contentType: 'text/html' }));
    await page.goto(url + '/');
    return opened;
  }

  text(id) {
    return this.#page.textContent('#' + id);
  }

  async number(id) {
    const text = await this.text(id);
    const value = Number(text.replaceAll(',', '').split(' ')[0]);
    assert(!Number.isNaN(value), `#${id} shows ${text}`);
    return value;
  }

  click(selector) {
    return this.#page.click(selector);
  }

  /** Polls until `reached(await look())`; returns what it saw then. */
  async until(what, look, reached, patience = PATIENCE_MS) {
    const from = Date.now();
    for (;;) {
      const seen = await look();
      if (reached(seen)) return seen;
      if (Date.now() - from > patience) throw new Error(`waited in vain until ${what}; saw ${seen}`);
      await this.#page.waitForTimeout(50);
    }
  }

  untilNumber(id, reached, what = '') {
    return this.until(`#${id} ${what || reached}`, () => this.number(id), reached);
  }

  untilText(id, pattern) {
    return this.until(`#${id} says ${pattern}`, () => this.text(id), (text) => pattern.test(text));
  }

  /** Moves a slider as its keys do. */
  slide(id, value) {
    return this.#page.locator('#' + id).fill(String(value));
  }

  async ask(question) {
    await this.#page.fill('#question', question);
    await this.#page.press('#question', 'Enter');
  }

  async say(words) {
    await this.#page.fill('#words', words);
    await this.#page.press('#words', 'Enter');
  }

  heard() {
    return this.#page.locator('#heard li:not(.event)').evaluateAll((lines) => lines.map((line) => line.lastChild.textContent));
  }

  untilHeard(words) {
    return this.until(`it hears ${words}`, () => this.heard(), (heard) => heard.includes(words));
  }

  evaluate(what, ...values) {
    return this.#page.evaluate(what, ...values);
  }

  async shot(name) {
    if (options.shots) await this.#page.screenshot({ path: path.join(options.shots, name + '.png'), fullPage: true });
  }

  close() {
    return this.#page.context().close({ runBeforeUnload: false });
  }
}

// ------------------------------------------------------------------- the tests

const said = [];
const tell = (words) => said.push(words);

/** What must not change is looked at for this long. */
const still = () => new Promise((resolve) => setTimeout(resolve, 700));

async function cutAndCheck(page, cut, resumptions) {
  const checked = await page.number('checked');
  await cut();
  await page.untilNumber('resumed', (n) => n === resumptions, `is ${resumptions}`);
  const verdict = await page.untilText('verdict', /^Resumed after \d+ ms: nothing lost, nothing doubled/);
  await page.untilNumber('checked', (n) => n > checked + 100, 'goes on');
  return Number(/after (\d+) ms/.exec(verdict)[1]);
}

const tests = {
  async 'the page connects and items come'({ page }) {
    await page.untilText('state', /^connected$/);
    await page.untilNumber('received', (n) => n >= 20);
    tell(`${await page.number('received')} samples, CPU at ${await page.evaluate(() => document.querySelector('#tiles dd').textContent)}`);
  },

  async 'the rate follows what is asked for'({ page }) {
    for (const [pace, least, most] of [[4, 3, 5], [16, 12, 17], [8, 6, 9]]) {
      await page.slide('pace', pace);
      const rate = await page.untilNumber('rate', (n) => n >= least && n <= most, `is about ${pace}`);
      tell(`asked for ${pace} a second, ${rate} came`);
    }
    assert((await page.number('granted')) >= (await page.number('received')));
  },

  async 'a page that asks for nothing gets nothing, and then exactly what it asks for'({ page, server }) {
    await page.click('#pause');
    await page.untilNumber('rate', (n) => n === 0, 'is 0');
    const [received, before] = [await page.number('received'), await server.stats()];
    await still();
    assert.equal(await page.number('received'), received);
    for (const n of [10, 1]) {
      const then = await page.number('received');
      await page.click(`[data-grant="${n}"]`);
      await page.untilNumber('received', (now) => now === then + n, `is ${then + n}`);
    }
    await still();
    assert.equal(await page.number('received'), received + 11);
    assert.equal(await page.number('granted'), received + 11);
    const after = await server.stats();
    tell(`stalled at ${received}, then 10 and 1; server's memory ${mib(before)} and ${mib(after)} MiB`);
    await page.click('#pause');
    await page.untilNumber('received', (n) => n > received + 20);
  },

  async 'more on their way is more a second, and stopping stops the server'({ page, server }) {
    await page.click('#run');
    const rates = {};
    for (const [index, window] of [[0, 1], [3, 64], [5, 1024]]) {
      await page.slide('window', index);
      const from = await page.number('numbers-received');
      await page.untilNumber('numbers-received', (n) => n > from);
      rates[window] = await page.evaluate(rateOver, 1500);
    }
    tell(`items a second with 1, 64, 1024 on their way: ${Object.values(rates).map(Math.round).join(', ')}`);
    assert(rates[1] < rates[64], 'a window of 64 is not faster than one of 1');
    await page.click('#run');
    await still();
    const [came, made] = [await page.number('numbers-received'), (await server.stats()).numbers_made];
    await still();
    assert.equal(await page.number('numbers-received'), came);
    assert.equal((await server.stats()).numbers_made, made);
    // One is ready, should there be credit.
    assert(made - came <= 1, `${made} made, ${came} came`);
    tell(`stopped: ${made} made, ${came} came`);
  },

  async 'a browser that stops reading stalls the server, which holds little for it'({ browser, network, server }) {
    const page = await Page.open(browser, network.url);
    await page.untilText('state', /^connected$/);
    const before = await server.stats();
    let isBlocked = true;
    const blocked = page.evaluate(askForAllAndBlock, BLOCKED_MS).finally(() => (isBlocked = false));
    const made = [];
    let memory = 0;
    while (isBlocked) {
      const stats = await server.stats();
      memory = Math.max(memory, stats.machine.server ?? 0);
      if (isBlocked) made.push(stats.numbers_made - before.numbers_made);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await blocked;
    const stall = made.filter((n) => n === made.at(-1)).length;
    const grown = (memory - before.machine.server) / MIB;
    const read = await page.number('numbers-received');
    tell(`${made.at(-1)} made, ${read} read; nothing was made in ${stall} of ${made.length} looks; server's memory grew by ${grown.toFixed(1)} MiB`);
    assert(made.at(-1) > 10_000, `it was not asked for all: ${made}`);
    assert(stall >= 5, `the server went on: ${made}`);
    // 8 MiB of frames are kept for resumption until the page confirms them.
    assert(grown < 24, 'the server held what the page did not read');
    await page.untilNumber('numbers-received', (n) => n > read, 'goes on');
    assert.equal(await page.number('missing'), 0);
    assert.equal(await page.number('doubled'), 0);
    await page.close();
  },

  async 'questions are answered, and errors arrive as errors'({ page }) {
    await page.ask('who are you');
    tell(await page.untilText('answer', /rsocket-core \d.*after .* ms$/));
    await page.ask('<b>&');
    await page.untilText('answer', /^you said: <b>&after/);
    await page.click('#chips button:has-text("fail")');
    await page.untilText('answer', /handler failed.*0x00000201/);
    await page.click('#many');
    await page.untilText('median', /ms$/);
    tell(`1000 questions in turn: median ${await page.text('median')}, 99 of 100 within ${await page.text('p99')}`);
  },

  async 'tabs talk to each other'({ page, other }) {
    await page.say('is anybody here?');
    await other.untilHeard('is anybody here?');
    await other.say('<i>me</i>');
    await page.untilHeard('<i>me</i>');
    const all = Array.from({ length: 60 }, (_, n) => `message ${n}`);
    for (const words of all) await page.say(words);
    for (const hearer of [page, other]) {
      await hearer.untilHeard(all.at(-1));
      const heard = (await hearer.heard()).filter((words) => all.includes(words));
      assert.deepEqual(heard, all);
    }
    tell(`${all.length} messages in order, on both pages`);
  },

  async 'a session survives its link'({ page, other, network }) {
    await page.click('#run');
    const from = await page.number('resumed');
    const times = [];
    for (let n = 1; n <= 4; n++) times.push(await cutAndCheck(page, () => page.click('#cut'), from + n));
    for (let n = 5; n <= 8; n++) times.push(await cutAndCheck(page, () => network.cut(), from + n));
    await page.click('#cut');
    await page.say('said while there is no link');
    await other.untilHeard('said while there is no link');
    assert.equal((await page.heard()).filter((words) => words.startsWith('said while')).length <= 1, true);
    await page.untilHeard('said while there is no link');
    await page.untilNumber('resumed', (n) => n === from + 9);
    await page.untilText('verdict', /nothing lost, nothing doubled/);
    const [checked, missing, doubled] = [await page.number('checked'), await page.number('missing'), await page.number('doubled')];
    tell(`9 cuts, back after ${Math.min(...times)} to ${Math.max(...times)} ms; ${await page.number('resent')} frames sent again; ${checked} items checked, ${missing} missing, ${doubled} doubled`);
    assert.equal(missing + doubled, 0);
    assert(await page.number('resent') > 0, 'nothing was on its way in any cut');
    page.keepalives = 0;
    await page.shot('light');
  },

  async 'a resumed session is kept alive'({ page }) {
    await page.until('a KEEPALIVE is sent', () => page.keepalives, (n) => n > 0);
  },

  async 'without resumption the page begins again'({ page, server, other }) {
    await page.click('label.switch');
    await page.untilText('verdict', /^A new session/);
    await page.untilNumber('received', (n) => n > 100);
    const sessions = () => server.stats().then((stats) => stats.sessions);
    await page.until('the old session is gone', sessions, (n) => n === 2, SESSION_MS);
    const before = await page.number('received');
    await page.click('#cut');
    tell(await page.untilText('verdict', /^Reconnected: a new session/));
    const again = await page.number('received');
    assert(again < before, `the stream did not begin again: ${before}, then ${again}`);
    await page.untilText('state', /^connected$/);
    assert.equal(await page.number('resumed'), 0);
    await page.untilNumber('received', (n) => n > again);
    await page.say('back');
    await other.untilHeard('back');
    await page.click('label.switch');
    await page.untilText('verdict', /^A new session/);
    await page.until('the old sessions are gone', sessions, (n) => n === 2, SESSION_MS);
    await page.click('#run');
  },

  async 'a server that does not know the session any more is no end'({ page, network, start }) {
    await page.untilText('state', /^connected$/);
    await network.server.kill();
    await page.untilText('state', /^link lost/);
    await start();
    tell(await page.untilText('verdict', /^Reconnected: a new session/));
    const received = await page.number('received');
    await page.untilNumber('received', (n) => n > received);
  },

  async 'pages of other sites are not let in'({ other, network }) {
    const url = network.server.url.replace('http', 'ws') + 'rsocket';
    const foreign = await other.evaluate((url) => new Promise((resolve) => {
      // Its origin is `null`.
      const frame = document.createElement('iframe');
      frame.sandbox = 'allow-scripts';
      frame.srcdoc = `<script>const s = new WebSocket(${JSON.stringify(url)});
        s.onopen = () => parent.postMessage('open', '*'); s.onerror = () => parent.postMessage('refused', '*');</script>`;
      addEventListener('message', ({ data }) => resolve(data), { once: true });
      document.body.append(frame);
    }), url);
    assert.equal(foreign, 'refused');
  },

  async 'it can be read in the dark and on a phone'({ browser, network }) {
    for (const [name, settings] of [
      ['dark', { colorScheme: 'dark' }],
      ['phone', { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }],
    ]) {
      const page = await Page.open(browser, network.url, settings);
      await page.click('#run');
      await page.say(`hello from ${name}`);
      await page.untilHeard(`hello from ${name}`);
      await page.click('#chips button');
      await page.untilText('answer', /Mozilla/);
      await page.click('#cut');
      await page.untilText('verdict', /nothing lost/);
      await page.untilNumber('received', (n) => n > (options.shots ? 120 : 10));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, 'it is wider than the screen');
      await page.shot(name);
      assert.deepEqual(page.problems, []);
      await page.close();
    }
  },

  async 'pages that are left leave nothing behind'({ page, other, network }) {
    for (const left of [page, other]) assert.deepEqual(left.problems, []);
    await page.evaluate(() => (location.href = 'about:blank'));
    await other.until('one session is left', async () => (await network.server.stats()).sessions, (n) => n === 1, SESSION_MS);
    tell(JSON.stringify(await network.server.stats()));
  },
};

const mib = (stats) => ((stats.machine.server ?? 0) / MIB).toFixed(1);

/** Runs in the page: items a second, over `ms`. */
async function rateOver(ms) {
  const came = () => Number(document.getElementById('numbers-received').textContent.replaceAll(',', ''));
  const [from, then] = [came(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, ms));
  return ((came() - from) * 1000) / (performance.now() - then);
}

/** Runs in the page: asks for 2^31-1 numbers, and keeps the page's one thread busy. */
function askForAllAndBlock(ms) {
  const slider = document.getElementById('window');
  slider.max = 7;
  slider.value = 7;
  slider.dispatchEvent(new Event('input'));
  document.getElementById('run').click();
  const until = performance.now() + ms;
  while (performance.now() < until);
}

// --------------------------------------------------------------------- running

if (options.shots) await mkdir(options.shots, { recursive: true });
const network = await Network.start();
const start = async () => (network.server = await Server.start(options.server, '--origin', network.url));
await start();
// A page that did not come from this machine, as far as Chromium knows, may not talk to it.
const foreign = options.page ? ['--disable-features=LocalNetworkAccessChecks'] : [];
const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox', ...foreign] });
let [passed, failed] = [0, 0];
try {
  console.log(`Chromium ${browser.version()}`);
  const page = await Page.open(browser, network.url);
  const other = await Page.open(browser, network.url);
  for (const [name, test] of Object.entries(tests)) {
    const from = Date.now();
    try {
      await test({ page, other, network, browser, start, server: network.server });
      passed++;
      console.log(`ok      ${name}  [${((Date.now() - from) / 1000).toFixed(1)} s]`);
    } catch (error) {
      failed++;
      console.log(`FAILED  ${name}\n${error.stack}`);
      await page.shot('failed');
      // What follows builds on it.
      break;
    } finally {
      for (const words of said.splice(0)) console.log(`        ${words}`);
    }
  }
} finally {
  await browser.close();
  network.stop();
  await network.server.kill();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
