// One RSocket session after another, over as many links as it takes.
//
// rsocket-js does the protocol. What it leaves to others is here: starting again
// when a session is lost, telling what happens to its link, and, once a session
// has been resumed, keeping it alive.

import { Buffer } from 'buffer';
import { ErrorCodes, FrameTypes, Flags, RSocketConnector } from 'rsocket-core';
import { WebsocketClientTransport } from 'rsocket-websocket-client';

const KEEPALIVE_MS = 10_000;
// How long a silent link is believed in. Long, since browsers hold back the timers
// of pages that nobody looks at.
const LIFETIME_MS = 90_000;
// The server keeps a session for a minute.
const RESUME_FOR_MS = 60_000;

const ignored = { onExtension() {} };
const utf8 = new TextDecoder();

export function text(payload) {
  return payload.data ? utf8.decode(payload.data) : '';
}

export function payload(route, data) {
  return {
    data: Buffer.from(data ?? ''),
    metadata: route === null ? undefined : Buffer.from(route),
  };
}

/** Between attempts: 0.2 s, 0.4 s, then 0.8 s, each up to a quarter longer. */
function delay(attempt) {
  const ms = 200 * 2 ** Math.min(attempt, 2) * (1 + Math.random() / 4);
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * `events` are told: `open()` a new session, `cut()` its link is lost, `resumed(ms)`
 * it goes on over another, `lost(error)` it is over.
 */
export class Session {
  frames = 0;
  links = 0;
  resumptions = 0;
  resumable = true;
  isUp = false;
  #events;
  #url;
  #requester = null;
  #socket = null;
  #cutAt = 0;
  #heardAt = 0;
  #keepalive = null;
  // Counts up with each session, so that what belongs to an old one is known.
  #generation = 0;

  constructor(url, events) {
    this.#url = url;
    this.#events = events;
    setInterval(() => this.#watch(), KEEPALIVE_MS);
  }

  /** Begins a session, trying until there is one. */
  async start() {
    const generation = ++this.#generation;
    this.resumptions = 0;
    this.links = 0;
    for (let attempt = 0; generation === this.#generation; attempt++) {
      try {
        const requester = await this.#connector(generation).connect();
        if (generation !== this.#generation) return;
        this.#requester = requester;
        this.isUp = true;
        this.#multiplexer.onClose((error) => this.#lost(generation, error));
        // It stops its own with the first link.
        requester.onClose(() => this.#keepAlive(generation));
        this.#events.open();
        return;
      } catch {
        await delay(attempt);
      }
    }
  }

  /** Ends the session for good: the server need not keep it. */
  end() {
    this.#generation++;
    this.isUp = false;
    clearInterval(this.#keepalive);
    if (!this.#requester) return;
    // CONNECTION_CLOSE would let its streams end first, and some never do.
    this.#multiplexer.connectionOutbound.send({
      type: FrameTypes.ERROR,
      streamId: 0,
      flags: Flags.NONE,
      code: ErrorCodes.CONNECTION_ERROR,
      message: 'the page ended its session',
    });
    this.#socket.close();
    this.#requester = null;
  }

  /** Closes the WebSocket below rsocket-js, which takes it for a lost link. */
  cut() {
    if (!this.#socket) return;
    // rsocket-js goes on sending until it is told that the link is closed.
    this.#socket.send = () => {};
    this.#socket.close();
  }

  /** One answer, or an error; `ms` is how long it took. */
  ask(route, data) {
    const from = performance.now();
    return new Promise((resolve, reject) => {
      if (!this.#requester) return reject(new Error('there is no session'));
      this.#requester.requestResponse(payload(route, data), {
        ...ignored,
        onNext: (answer) => resolve({ answer: text(answer), ms: performance.now() - from }),
        onComplete: () => resolve({ answer: '', ms: performance.now() - from }),
        onError: reject,
      });
    });
  }

  /** A stream of which `n` are asked for; more by its `request`. */
  stream(route, n, onNext, onEnd) {
    return this.#requester.requestStream(payload(route), n, {
      ...ignored,
      onNext,
      onComplete: () => onEnd(null),
      onError: onEnd,
    });
  }

  /** A channel; `request` is told how much the server takes. */
  channel(first, n, { onNext, onEnd, request }) {
    return this.#requester.requestChannel(payload(null, first), n, false, {
      ...ignored,
      onNext,
      onComplete: () => onEnd(null),
      onError: onEnd,
      request,
      cancel() {},
    });
  }

  // Survives the links, unlike the connection that it came with.
  get #multiplexer() {
    return this.#requester.connection.multiplexerDemultiplexer;
  }

  #connector(generation) {
    const resume = {
      tokenGenerator: () => Buffer.from(crypto.getRandomValues(new Uint8Array(16))),
      reconnectFunction: async (attempt) => {
        await delay(attempt);
        // The session was ended: there is nobody to tell.
        if (generation !== this.#generation) await new Promise(() => {});
        if (performance.now() - this.#cutAt > RESUME_FOR_MS) throw new Error('nobody answered in time');
      },
    };
    return new RSocketConnector({
      setup: {
        keepAlive: KEEPALIVE_MS,
        lifetime: LIFETIME_MS,
        dataMimeType: 'application/json',
        metadataMimeType: 'text/plain',
      },
      transport: new WebsocketClientTransport({
        url: this.#url,
        wsCreator: (url) => this.#open(url, generation),
      }),
      resume: this.resumable ? resume : undefined,
    });
  }

  /** A link of the session, watched. */
  #open(url, generation) {
    const socket = new WebSocket(url);
    let isLinked = false;
    socket.addEventListener('open', () => {
      isLinked = true;
      this.#socket = socket;
      this.#heardAt = performance.now();
      this.links++;
    });
    socket.addEventListener('message', ({ data }) => {
      this.#heardAt = performance.now();
      this.frames++;
      if (data.byteLength >= 6 && new DataView(data).getUint16(4) >> 10 === FrameTypes.RESUME_OK) {
        this.isUp = true;
        this.resumptions++;
        const took = performance.now() - this.#cutAt;
        // Once rsocket-js has seen it too.
        setTimeout(() => this.#events.resumed(took));
      }
    });
    socket.addEventListener('close', () => {
      if (!isLinked || generation !== this.#generation) return;
      if (this.isUp) this.#cutAt = performance.now();
      this.isUp = false;
      this.#events.cut();
    });
    return socket;
  }

  #lost(generation, error) {
    if (generation !== this.#generation) return;
    this.#requester = null;
    this.isUp = false;
    clearInterval(this.#keepalive);
    // The link's own end is told first.
    setTimeout(() => this.#events.lost(error, performance.now() - this.#cutAt));
  }

  #keepAlive(generation) {
    if (!this.resumable || generation !== this.#generation) return;
    clearInterval(this.#keepalive);
    this.#keepalive = setInterval(() => {
      if (!this.isUp) return;
      this.#multiplexer.connectionOutbound.send({
        type: FrameTypes.KEEPALIVE,
        streamId: 0,
        flags: Flags.RESPOND,
        data: undefined,
        // Filled in below.
        lastReceivedPosition: 0,
      });
    }, KEEPALIVE_MS);
  }

  /** Gives up a link that is silent for too long, whatever the system says. */
  #watch() {
    if (this.isUp && performance.now() - this.#heardAt > LIFETIME_MS) this.cut();
  }
}
