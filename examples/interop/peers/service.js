'use strict';
// What the two JavaScript peers share: the service, the driver's loop and the
// command line. Nothing here touches an RSocket library; each `peer.js` binds
// these parts to the library it is named after.

const readline = require('readline');

const MAX_N = 0x7fffffff;

/** `n` bytes, byte i = i mod 251. */
function pattern(n) {
  const out = Buffer.allocUnsafe(n);
  for (let i = 0; i < n; i++) out[i] = i % 251;
  return out;
}

/** Credit that never exceeds 2^31-1: reaching it means unbounded. */
function addCredit(a, b) {
  return Math.min(MAX_N, a + b);
}

// ---------------------------------------------------------------- counters

const stats = { fnf: 0, cancel: 0, push: 0, maxout: 0, active: 0 };

/** Counts one request as active until `finish` or `cancel`, whichever is first. */
function begin() {
  stats.active++;
  stats.maxout = Math.max(stats.maxout, stats.active);
  let open = true;
  const end = (cancelled) => {
    if (!open) return;
    open = false;
    stats.active--;
    if (cancelled) stats.cancel++;
  };
  return { finish: () => end(false), cancel: () => end(true) };
}

function statsText() {
  const { fnf, cancel, push, maxout, active } = stats;
  return `fnf=${fnf} cancel=${cancel} push=${push} maxout=${maxout} active=${active}`;
}

// ----------------------------------------------------------------- service

// Commands are short; the rest of a large payload is never turned into text.
const HEAD = 64;

function head(payload) {
  return payload.data.toString('utf8', 0, Math.min(HEAD, payload.data.length));
}

function numbers(text, prefix, count) {
  if (!text.startsWith(prefix)) return null;
  const parts = text.slice(prefix.length).split(':');
  if (parts.length !== count || !parts.every((p) => /^[0-9]{1,15}$/.test(p))) return null;
  return parts.map(Number);
}

/**
 * Answers a request-response. `done(error, payload)` is called at most once;
 * `call(payload, done)` sends a request-response to the other side of the same
 * connection. Returns what to call when the request is cancelled.
 */
function requestResponse(request, call, done) {
  const text = head(request);
  if (text === 'stats') {
    done(null, { data: Buffer.from(statsText()) });
    return () => {};
  }
  const work = begin();
  const reply = (error, payload) => {
    work.finish();
    done(error, payload);
  };
  let arg;
  if (text === 'never') {
    return work.cancel;
  } else if (text.startsWith('echo:')) {
    reply(null, request);
  } else if (text.startsWith('error:')) {
    reply(new Error(request.data.toString('utf8', 'error:'.length)));
  } else if ((arg = numbers(text, 'big:', 1))) {
    reply(null, { data: pattern(arg[0]) });
  } else if (text.startsWith('len:')) {
    reply(null, { data: Buffer.from(String(request.data.length)) });
  } else if (text.startsWith('callme:')) {
    const data = Buffer.concat([Buffer.from('echo:'), request.data.subarray('callme:'.length)]);
    call({ data }, reply);
  } else {
    reply(new Error('unknown'));
  }
  return work.cancel;
}

// Items sent before others get a turn; by count and by bytes.
const TURN_ITEMS = 256;
const TURN_BYTES = 256 * 1024;

// The libraries do not tell when a socket is full: a stream that never ends has to
// leave a slow reader the time to read, or all else waits behind what it sent.
const ENDLESS_ITEMS = 64;
const ENDLESS_PAUSE_MS = 1;

/**
 * Answers a request-stream through `sink.next`, `sink.complete` and `sink.error`.
 * Nothing is sent before the first `request(n)`.
 */
function requestStream(request, sink) {
  const text = head(request);
  let count = 0;
  let item = (i) => Buffer.from(String(i));
  let failure = null;
  let arg;
  if ((arg = numbers(text, 'range:', 1))) {
    count = arg[0];
  } else if (text === 'infinite') {
    count = Infinity;
  } else if ((arg = numbers(text, 'fail:', 1))) {
    count = arg[0];
    failure = 'boom';
  } else if ((arg = numbers(text, 'bigitems:', 2))) {
    count = arg[0];
    const bytes = pattern(arg[1]);
    item = () => bytes;
  } else if (text !== 'empty') {
    failure = 'unknown';
  }
  const work = begin();
  let sent = 0;
  let credit = 0;
  let scheduled = false;
  let over = false;

  const pump = () => {
    scheduled = false;
    let items = 0;
    let bytes = 0;
    const turn = count === Infinity ? ENDLESS_ITEMS : TURN_ITEMS;
    while (!over && sent < count && credit > 0 && items < turn && bytes < TURN_BYTES) {
      const data = item(sent);
      sent++;
      items++;
      bytes += data.length;
      if (credit !== MAX_N) credit--;
      sink.next({ data });
    }
    if (over) return;
    if (sent >= count) {
      over = true;
      work.finish();
      if (failure === null) sink.complete();
      else sink.error(new Error(failure));
    } else if (credit > 0) {
      scheduled = true;
      if (count === Infinity) setTimeout(pump, ENDLESS_PAUSE_MS);
      else setImmediate(pump);
    }
  };
  return {
    request(n) {
      credit = addCredit(credit, n);
      if (!scheduled) pump();
    },
    cancel() {
      over = true;
      work.cancel();
    },
  };
}

/**
 * Answers a request-channel whose first payload is `first`. `upstream.request` and
 * `upstream.cancel` speak to the requester's half. Inbound credit follows outbound
 * credit, so no more than what was asked for is ever held here.
 */
function requestChannel(first, sink, upstream) {
  const text = head(first);
  const work = begin();
  const stop = numbers(text, 'stop:', 1);
  const kind = stop ? 'stop' : text === 'echo' || text === 'sum' ? text : 'unknown';
  let left = stop ? stop[0] : Infinity;
  let total = 0n;
  let credit = 0;
  // Inbound payloads that the outbound credit does not cover yet: for `echo` and
  // `stop` the first payload takes one.
  let owed = kind === 'sum' ? 0 : 1;
  let asked = 1;
  let inboundDone = false;
  let over = false;
  const waiting = [];

  const finish = (send) => {
    if (over) return;
    over = true;
    work.finish();
    send();
  };
  const flush = () => {
    while (!over && credit > 0 && left > 0 && waiting.length > 0) {
      if (credit !== MAX_N) credit--;
      left--;
      sink.next(waiting.shift());
    }
    if (over) return;
    if (left === 0) {
      finish(() => {
        sink.complete();
        if (!inboundDone) upstream.cancel();
      });
    } else if (inboundDone && waiting.length === 0) {
      finish(sink.complete);
    }
  };
  const accept = (payload) => {
    if (kind !== 'sum') {
      waiting.push(payload);
      return;
    }
    const number = payload.data.toString('utf8');
    if (!/^-?[0-9]{1,30}$/.test(number)) {
      finish(() => sink.error(new Error('not a number')));
      return;
    }
    total += BigInt(number);
    waiting.push({ data: Buffer.from(String(total)) });
  };
  if (kind === 'unknown') finish(() => sink.error(new Error('unknown')));
  else if (kind !== 'sum') accept(first);

  return {
    request(n) {
      if (over) return;
      credit = addCredit(credit, n);
      flush();
      if (over || inboundDone) return;
      const covered = Math.min(n, owed);
      owed -= covered;
      const want = Math.min(n - covered, stop ? stop[0] - asked : MAX_N);
      if (want > 0) {
        asked += want;
        upstream.request(want);
      }
    },
    cancel() {
      over = true;
      work.cancel();
    },
    next(payload) {
      if (over) return;
      accept(payload);
      flush();
    },
    complete() {
      inboundDone = true;
      if (!over) flush();
    },
    /** ERROR from the requester: the whole stream is over, nothing is sent back. */
    error() {
      over = true;
      work.finish();
    },
  };
}

// ------------------------------------------------------------------ driver

function decode(text) {
  return Buffer.from(text, 'base64');
}

/** Data and metadata of a request: absent metadata stays `undefined`. */
function payloadOf(op) {
  let data = op.data === undefined ? Buffer.alloc(0) : decode(op.data);
  if (op.gen) data = Buffer.concat([data, pattern(op.gen)]);
  let metadata = op.metadata === undefined || op.metadata === null ? undefined : decode(op.metadata);
  if (op.mgen) metadata = Buffer.concat([metadata || Buffer.alloc(0), pattern(op.mgen)]);
  return { data, metadata };
}

class NotSupported extends Error {
  constructor(what) {
    super(`not supported: ${what}`);
    this.code = -1;
  }
}

/**
 * Reads operations from stdin and answers on stdout. `library` is what `peer.js`
 * gives: `caps` and `connect(options, events)`, the latter a promise of a connection
 * with `rr`, `fnf`, `push`, `stream`, `channel` and `close`.
 */
function drive(library) {
  // What one turn of the event loop yields goes out in one piece at its end.
  let pending = [];
  const flush = () => {
    const lines = pending;
    pending = [];
    process.stdout.write(lines.join(''));
  };
  const print = (line) => {
    if (pending.length === 0) queueMicrotask(flush);
    pending.push(line);
  };
  const write = (event) => print(JSON.stringify(event) + '\n');
  let connection = null;
  const running = new Map();

  const crash = (error) => write({ id: 0, ev: 'crash', message: String((error && error.stack) || error) });
  process.on('uncaughtException', crash);
  process.on('unhandledRejection', crash);

  const fail = (id, error) => {
    const code = Number.isInteger(error && error.code) ? error.code : -1;
    write({ id, ev: 'error', code, message: error instanceof Error ? error.message : String(error) });
  };

  /**
   * Observer of one request: forgets the request at its first terminal event, but
   * for a channel that completes, whose sending half goes on.
   */
  const observer = (id, channel) => {
    let open = true;
    const end = (event, keep) => {
      if (!open) return;
      open = false;
      if (!keep) running.delete(id);
      event();
    };
    return {
      next(payload) {
        if (!open) return;
        const metadata = payload.metadata == null ? 'null' : `"${payload.metadata.toString('base64')}"`;
        const data = payload.data == null ? '' : payload.data.toString('base64');
        // By hand: this is what a flood consists of.
        print(`{"id":${id},"ev":"next","data":"${data}","metadata":${metadata}}\n`);
      },
      complete: () => end(() => write({ id, ev: 'complete' }), channel),
      error: (error) => end(() => fail(id, error)),
      demand: (n) => write({ id, ev: 'demand', n }),
      cancelled: () => write({ id, ev: 'cancelled' }),
      silence: () => (open = false),
    };
  };

  const start = (op, open) => {
    const seen = observer(op.id, op.op === 'channel');
    const entry = { handle: null, seen };
    // In place before the request goes out: a library may answer at once.
    running.set(op.id, entry);
    try {
      if (!connection) throw new Error('not connected');
      entry.handle = open(connection, payloadOf(op), seen);
    } catch (error) {
      seen.error(error);
    }
  };

  const withRunning = (op, act) => {
    const entry = running.get(op.id);
    if (!entry) return;
    try {
      act(entry.handle, entry);
    } catch (error) {
      entry.seen.error(error);
    }
  };

  const events = {
    closed: (message) => write({ id: 0, ev: 'closed', message }),
    connError: (code, message) => write({ id: 0, ev: 'conn_error', code, message }),
    keepaliveTimeout: () => write({ id: 0, ev: 'keepalive_timeout' }),
  };

  const ops = {
    caps: (op) => write({ id: op.id, ev: 'caps', ...library.caps }),
    async connect(op) {
      try {
        if (connection) connection.close();
        connection = null;
        const token = op.token === undefined ? undefined : Buffer.from(op.token);
        connection = await library.connect(
          {
            url: new URL(op.url),
            keepAlive: op.keepalive_ms === undefined ? 20000 : op.keepalive_ms,
            lifetime: op.lifetime_ms === undefined ? 90000 : op.lifetime_ms,
            mtu: op.mtu || 0,
            lease: !!op.lease,
            grant: op.grant || null,
            resume: !!op.resume,
            token,
            data: op.setup_data == null ? undefined : decode(op.setup_data),
            metadata: op.setup_metadata == null ? undefined : decode(op.setup_metadata),
          },
          events
        );
        write({ id: op.id, ev: 'ok' });
      } catch (error) {
        fail(op.id, error);
      }
    },
    rr: (op) => start(op, (c, payload, seen) => c.rr(payload, seen)),
    fnf: (op) => start(op, (c, payload, seen) => c.fnf(payload, seen)),
    push: (op) => start(op, (c, payload, seen) => c.push(payload.metadata || Buffer.alloc(0), seen)),
    stream: (op) => start(op, (c, payload, seen) => c.stream(payload, op.n || MAX_N, seen)),
    channel: (op) => start(op, (c, payload, seen) => c.channel(payload, op.n || MAX_N, seen)),
    request_n: (op) => withRunning(op, (handle) => handle.request(op.n)),
    cancel: (op) =>
      withRunning(op, (handle, entry) => {
        running.delete(op.id);
        entry.seen.silence();
        handle.cancel();
      }),
    send: (op) => withRunning(op, (handle) => handle.send(payloadOf(op))),
    send_complete: (op) => withRunning(op, (handle) => handle.sendComplete()),
    send_error: (op) => withRunning(op, (handle) => handle.sendError(op.message || '')),
    close(op) {
      const closing = connection;
      connection = null;
      try {
        if (closing) closing.close();
      } catch (error) {
        fail(op.id, error);
        return;
      }
      write({ id: op.id, ev: 'ok' });
    },
    quit: () => process.exit(0),
  };

  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
  lines.on('line', (line) => {
    if (line.trim() === '') return;
    let op;
    try {
      op = JSON.parse(line);
    } catch (error) {
      fail(0, new Error(`not JSON: ${error.message}`));
      return;
    }
    const run = Object.prototype.hasOwnProperty.call(ops, op.op) ? ops[op.op] : null;
    if (run) run(op);
    else fail(op.id, new NotSupported(`operation ${op.op}`));
  });
  lines.on('close', () => process.exit(0));
}

/**
 * Payloads of a channel's requester, held until the responder asked for them:
 * a library either drops what is sent without credit or sends it regardless.
 */
class Outbox {
  constructor(send, complete) {
    this.send = send;
    this.complete = complete;
    this.credit = 0;
    this.waiting = [];
    this.state = 'open';
  }
  demand(n) {
    this.credit = addCredit(this.credit, n);
    this.flush();
  }
  push(payload) {
    if (this.state !== 'open') return;
    this.waiting.push(payload);
    this.flush();
  }
  end() {
    if (this.state !== 'open') return;
    this.state = 'ending';
    this.flush();
  }
  /** Nothing more may be sent. */
  shut() {
    this.state = 'over';
    this.waiting = [];
  }
  flush() {
    while (this.credit > 0 && this.waiting.length > 0) {
      if (this.credit !== MAX_N) this.credit--;
      this.send(this.waiting.shift());
    }
    if (this.state === 'ending' && this.waiting.length === 0) {
      this.state = 'over';
      this.complete();
    }
  }
}

// ------------------------------------------------------------ command line

function usage(message) {
  process.stderr.write(
    `${message}\nusage: peer.js server [--tcp PORT] [--ws PORT] [--mtu N] [--lease REQUESTS:TTL_MS] [--resume SECONDS]\n` +
      '       peer.js driver\n'
  );
  process.exit(2);
}

function serverOptions(args) {
  const options = { tcp: null, ws: null, mtu: null, lease: null, resume: null };
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i].replace(/^--/, '');
    const value = args[i + 1];
    if (!(name in options) || !args[i].startsWith('--')) usage(`not supported: ${args[i]}`);
    if (value === undefined) usage(`${args[i]} needs a value`);
    const parts = numbers(value, '', name === 'lease' ? 2 : 1);
    if (!parts) usage(`bad value for ${args[i]}: ${value}`);
    options[name] = name === 'lease' ? { requests: parts[0], ttl: parts[1] } : parts[0];
  }
  if (options.tcp === null && options.ws === null) usage('--tcp or --ws is needed');
  return options;
}

/** Runs `library.serve(options, listening)` or the driver, as the command line says. */
function main(library) {
  const [command, ...args] = process.argv.slice(2);
  if (command === 'driver') {
    drive(library);
  } else if (command === 'server') {
    // A server outlives every error that a client provokes inside the library.
    const survive = (error) => process.stderr.write(`survived: ${(error && error.stack) || error}\n`);
    process.on('uncaughtException', survive);
    process.on('unhandledRejection', survive);
    const listening = (url) => process.stdout.write(`listening ${url}\n`);
    const failed = (error) => {
      process.stderr.write(`${error.message}\n`);
      process.exit(2);
    };
    try {
      library.serve(serverOptions(args), listening, failed);
    } catch (error) {
      failed(error);
    }
  } else {
    usage('server or driver?');
  }
}

module.exports = {
  MAX_N,
  NotSupported,
  Outbox,
  main,
  requestChannel,
  requestResponse,
  requestStream,
  stats,
};
