'use strict';
// The interop service and driver on rsocket-js 0.0.27.

const net = require('net');
const crypto = require('crypto');
const WebSocket = require('ws');
const {
  BufferEncoders,
  Lease,
  Leases,
  RSocketClient,
  RSocketResumableTransport,
  RSocketServer,
} = require('rsocket-core');
const { Flowable, Single } = require('rsocket-flowable');
const RSocketTcpClient = require('rsocket-tcp-client').default;
const RSocketTcpServer = require('rsocket-tcp-server').default;
const RSocketWebSocketClient = require('rsocket-websocket-client').default;
const RSocketWebSocketServer = require('rsocket-websocket-server').default;
const {
  MAX_N,
  NotSupported,
  Outbox,
  main,
  requestChannel,
  requestResponse,
  requestStream,
  stats,
} = require('../service.js');

const caps = {
  impl: 'rsocket-js 0.0.27',
  tcp: true,
  ws: true,
  request_n: true,
  initial_n: true,
  cancel_rr: true,
  cancel_stream: true,
  lease: true,
  resume: true,
  mtu: false,
  channel: true,
  channel_demand: true,
  channel_error: true,
  push: true,
  fnf: true,
  responder: true,
  errorcodes: true,
};

/** A payload as the service wants it: data always there, metadata or `undefined`. */
function received(payload) {
  return {
    data: payload.data == null ? Buffer.alloc(0) : payload.data,
    metadata: payload.metadata == null ? undefined : payload.metadata,
  };
}

/** An error with the code that came over the wire, if one did. */
function coded(error) {
  if (!error || !error.source) return error;
  return Object.assign(new Error(error.source.message), { code: error.source.code });
}

// --------------------------------------------------------------- responder

/** `peer()` is the requester of the same connection. */
function responder(peer) {
  return {
    fireAndForget() {
      stats.fnf++;
    },
    metadataPush() {
      stats.push++;
      return Single.of(undefined);
    },
    requestResponse(payload) {
      return new Single((subscriber) => {
        let answer = null;
        let ready = false;
        const deliver = () => {
          if (answer[0]) subscriber.onError(answer[0]);
          else subscriber.onComplete(answer[1]);
        };
        const call = (request, done) =>
          peer()
            .requestResponse(request)
            .subscribe({
              onComplete: (response) => done(null, received(response)),
              onError: (error) => done(coded(error)),
            });
        // The subscriber takes no answer before `onSubscribe`.
        const cancel = requestResponse(received(payload), call, (...result) => {
          answer = result;
          if (ready) deliver();
        });
        subscriber.onSubscribe(cancel);
        ready = true;
        if (answer) deliver();
      });
    },
    requestStream(payload) {
      return new Flowable((subscriber) => {
        subscriber.onSubscribe(
          requestStream(received(payload), {
            next: (item) => subscriber.onNext(item),
            complete: () => subscriber.onComplete(),
            error: (error) => subscriber.onError(error),
          })
        );
      }, MAX_N);
    },
    requestChannel(payloads) {
      return new Flowable((subscriber) => {
        let upstream = null;
        let channel = null;
        let credit = 0;
        const sink = {
          next: (item) => subscriber.onNext(item),
          complete: () => subscriber.onComplete(),
          error: (error) => subscriber.onError(error),
        };
        subscriber.onSubscribe({
          request(n) {
            if (channel) channel.request(n);
            else credit = Math.min(MAX_N, credit + n);
          },
          cancel() {
            if (channel) channel.cancel();
          },
        });
        payloads.subscribe({
          onSubscribe(subscription) {
            upstream = subscription;
            // The library hands over the first payload at the first request(1) and
            // sends nothing for it.
            upstream.request(1);
          },
          onNext(payload) {
            if (channel) {
              channel.next(received(payload));
              return;
            }
            channel = requestChannel(received(payload), sink, {
              request: (n) => upstream.request(n),
              cancel: () => upstream.cancel(),
            });
            if (credit > 0) channel.request(credit);
          },
          onComplete: () => channel && channel.complete(),
          onError(error) {
            if (!channel) return;
            // Without a source it is the end of the connection.
            if (error.source) channel.error();
            else channel.cancel();
          },
        });
      }, MAX_N);
    },
  };
}

/** Grants `requests` for `ttl` ms, again and again, until `stop` is called. */
function granting(requests, ttl) {
  let stopped = false;
  let timer = null;
  const flow = new Flowable((subscriber) => {
    const grant = () => {
      if (stopped) return;
      subscriber.onNext(new Lease(ttl, requests));
      timer = setTimeout(grant, ttl);
    };
    subscriber.onSubscribe({
      // A client's machine subscribes before it sends SETUP: granting at once would
      // put LEASE in front of it.
      request: () => timer === null && (timer = setTimeout(grant, 0)),
      cancel: () => stop(),
    });
  });
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
  };
  return { flow, stop };
}

// ------------------------------------------------------------------ server

function serve(options, listening, failed) {
  if (options.mtu !== null) throw new NotSupported('--mtu (the library does not fragment)');
  if (options.resume !== null) throw new NotSupported('--resume (the library resumes as a client only)');

  const run = (transport) => {
    const grants = [];
    const config = {
      transport,
      getRequestHandler(socket) {
        const grant = grants.pop();
        // The library throws while it disposes of a lease sender and so never
        // cancels it.
        if (grant) whenOver(socket, () => grant.stop());
        return responder(() => socket);
      },
    };
    if (options.lease) {
      // Called for each connection, right before its request handler is asked for.
      config.leases = () => {
        const grant = granting(options.lease.requests, options.lease.ttl);
        grants.push(grant);
        return new Leases().sender(() => grant.flow);
      };
    }
    new RSocketServer(config).start();
  };
  if (options.tcp !== null) {
    const serverFactory = (onConnection) => {
      const server = net.createServer(onConnection);
      server.on('error', failed);
      server.on('listening', () => listening(`tcp://127.0.0.1:${server.address().port}`));
      return server;
    };
    run(new RSocketTcpServer({ host: '127.0.0.1', port: options.tcp, serverFactory }, BufferEncoders));
  }
  if (options.ws !== null) {
    const factory = (settings) => {
      const server = new WebSocket.Server(settings);
      server.on('error', failed);
      server.on('listening', () => listening(`ws://127.0.0.1:${server.address().port}/`));
      return server;
    };
    run(new RSocketWebSocketServer({ host: '127.0.0.1', port: options.ws }, BufferEncoders, factory));
  }
}

function whenOver(source, act) {
  source.connectionStatus().subscribe({
    onNext: (status) => {
      if (status.kind === 'CLOSED' || status.kind === 'ERROR') act(status);
    },
    onSubscribe: (subscription) => subscription.request(Number.MAX_SAFE_INTEGER),
  });
}

// ------------------------------------------------------------------ driver

const RECONNECT_MS = 200;
const RESUME_BUFFER = 16 * 1024 * 1024;
const RESUME_SECONDS = 60;

function dial(url) {
  if (url.protocol === 'tcp:') {
    return new RSocketTcpClient({ host: url.hostname, port: Number(url.port) }, BufferEncoders);
  }
  if (url.protocol === 'ws:') {
    return new RSocketWebSocketClient({ url: url.href, wsCreator: (to) => new WebSocket(to) }, BufferEncoders);
  }
  throw new NotSupported(`transport ${url.protocol}`);
}

function resumable(options, closing) {
  const transport = new RSocketResumableTransport(
    () => dial(options.url),
    {
      bufferSize: RESUME_BUFFER,
      resumeToken: options.token || crypto.randomBytes(16),
      sessionDurationSeconds: RESUME_SECONDS,
    },
    BufferEncoders
  );
  let started = false;
  transport.connectionStatus().subscribe({
    onNext(status) {
      if (status.kind === 'CONNECTED') started = true;
      if (status.kind !== 'NOT_CONNECTED' || !started) return;
      setTimeout(() => !closing.yes && transport.connect(), RECONNECT_MS);
    },
    onSubscribe: (subscription) => subscription.request(Number.MAX_SAFE_INTEGER),
  });
  return transport;
}

function connect(options, events) {
  if (options.mtu) throw new NotSupported('mtu (the library does not fragment)');
  const closing = { yes: false };
  let requester = null;
  let grant = null;
  const transport = options.resume ? resumable(options, closing) : dial(options.url);
  const config = {
    transport,
    setup: {
      keepAlive: options.keepAlive,
      lifetime: options.lifetime,
      dataMimeType: 'application/octet-stream',
      metadataMimeType: 'application/octet-stream',
      payload: { data: options.data, metadata: options.metadata },
    },
    responder: responder(() => requester),
    errorHandler(error) {
      if (error.source) events.connError(error.source.code, error.source.message);
      else if (error.message.startsWith('No keep-alive acks')) events.keepaliveTimeout();
      else events.connError(-1, error.message);
    },
  };
  if (options.lease || options.grant) {
    config.leases = () => {
      const leases = new Leases();
      if (options.grant) {
        grant = granting(options.grant[0], options.grant[1]);
        leases.sender(() => grant.flow);
      }
      return leases;
    };
  }
  return new Promise((resolve, reject) => {
    new RSocketClient(config).connect().subscribe({
      onComplete(socket) {
        requester = socket;
        whenOver(socket, (status) => {
          if (grant) grant.stop();
          if (closing.yes) return;
          // The library tells the error that closed a connection after its end.
          setImmediate(() => events.closed(status.error ? status.error.message : 'closed'));
        });
        resolve(connection(socket, closing));
      },
      onError: reject,
    });
  });
}

function connection(socket, closing) {
  return {
    rr(payload, seen) {
      let cancel = () => {};
      socket.requestResponse(payload).subscribe({
        onSubscribe: (by) => (cancel = by),
        onComplete: (response) => {
          seen.next(received(response));
          seen.complete();
        },
        onError: (error) => seen.error(coded(error)),
      });
      return { cancel: () => cancel() };
    },
    fnf(payload, seen) {
      socket.fireAndForget(payload);
      seen.complete();
    },
    push(metadata, seen) {
      socket.metadataPush({ metadata }).subscribe({
        onComplete: () => seen.complete(),
        onError: (error) => seen.error(error),
      });
    },
    stream(payload, n, seen) {
      let subscription = null;
      socket.requestStream(payload).subscribe({
        onSubscribe: (by) => {
          subscription = by;
          by.request(n);
        },
        onNext: (item) => seen.next(received(item)),
        onComplete: () => seen.complete(),
        onError: (error) => seen.error(coded(error)),
      });
      return { request: (more) => subscription.request(more), cancel: () => subscription.cancel() };
    },
    channel(first, n, seen) {
      let downstream = null;
      let subscription = null;
      let over = false;
      const out = new Outbox(
        (payload) => downstream.onNext(payload),
        () => downstream.onComplete()
      );
      const payloads = new Flowable((subscriber) => {
        downstream = subscriber;
        let primed = false;
        subscriber.onSubscribe({
          request(more) {
            if (!primed) {
              // The library's own request(1), for the payload of REQUEST_CHANNEL.
              primed = true;
              subscriber.onNext(first);
              return;
            }
            seen.demand(more);
            out.demand(more);
          },
          cancel() {
            out.shut();
            if (!over) seen.cancelled();
          },
        });
      }, MAX_N);
      const ended = (tell) => {
        over = true;
        tell();
      };
      socket.requestChannel(payloads).subscribe({
        onSubscribe: (by) => {
          subscription = by;
          by.request(n);
        },
        onNext: (item) => seen.next(received(item)),
        // Only the responder's half: the requester may go on sending.
        onComplete: () => seen.complete(),
        onError: (error) =>
          ended(() => {
            out.shut();
            seen.error(coded(error));
          }),
      });
      return {
        request: (more) => subscription.request(more),
        cancel() {
          over = true;
          out.shut();
          subscription.cancel();
        },
        send: (payload) => out.push(payload),
        sendComplete: () => out.end(),
        sendError(message) {
          out.shut();
          downstream.onError(new Error(message));
        },
      };
    },
    close() {
      closing.yes = true;
      socket.close();
    },
  };
}

main({ caps, connect: async (options, events) => connect(options, events), serve });
