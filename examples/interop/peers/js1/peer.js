'use strict';
// The interop service and driver on rsocket-js 1.0.0-alpha.3.

const crypto = require('crypto');
const net = require('net');
const WebSocket = require('ws');
const { ErrorCodes, RSocketConnector, RSocketError, RSocketServer } = require('rsocket-core');
const { TcpClientTransport } = require('rsocket-tcp-client');
const { TcpServerTransport } = require('rsocket-tcp-server');
const { WebsocketClientTransport } = require('rsocket-websocket-client');
const { WebsocketServerTransport } = require('rsocket-websocket-server');
const {
  NotSupported,
  Outbox,
  main,
  requestChannel,
  requestResponse,
  requestStream,
  stats,
} = require('../service.js');

const caps = {
  impl: 'rsocket-js 1.0.0-alpha.3',
  tcp: true,
  ws: true,
  request_n: true,
  initial_n: true,
  cancel_rr: true,
  cancel_stream: true,
  lease: true,
  resume: true,
  mtu: true,
  channel: true,
  channel_demand: true,
  channel_error: true,
  push: false,
  fnf: true,
  responder: true,
  errorcodes: true,
};

// The library counts the payload of a frame only, and the 4 bytes of an initial
// request-n as 3; the contract's MTU counts the 6 bytes of frame header and the 3
// bytes of length prefix too.
const FRAME_OVERHEAD = 10;

function fragmentation(mtu) {
  return mtu ? { maxOutboundFragmentSize: mtu - FRAME_OVERHEAD } : undefined;
}

/** A payload as the service wants it: data always there, metadata or `undefined`. */
function received(payload) {
  return {
    data: payload.data == null ? Buffer.alloc(0) : payload.data,
    metadata: payload.metadata == null ? undefined : payload.metadata,
  };
}

function applicationError(error) {
  return new RSocketError(ErrorCodes.APPLICATION_ERROR, error.message);
}

/** Whether a code came with the error; `instanceof RSocketError` never holds. */
function isCoded(error) {
  return !!error && Number.isInteger(error.code);
}

const ignoreExtension = { onExtension() {} };

// --------------------------------------------------------------- responder

/** `peer()` is the requester of the same connection. */
function responder(peer) {
  const sinkOf = (stream) => ({
    next: (item) => stream.onNext(item, false),
    complete: () => stream.onComplete(),
    error: (error) => stream.onError(applicationError(error)),
  });
  return {
    fireAndForget() {
      stats.fnf++;
      return { cancel() {} };
    },
    // Never called by this version; here for the day it is.
    metadataPush() {
      stats.push++;
    },
    requestResponse(payload, stream) {
      const call = (request, done) => {
        let response = { data: Buffer.alloc(0) };
        let open = true;
        const end = (error) => {
          if (!open) return;
          open = false;
          done(error, response);
        };
        peer().requestResponse(request, {
          ...ignoreExtension,
          onNext(item, complete) {
            response = received(item);
            if (complete) end(null);
          },
          onComplete: () => end(null),
          onError: end,
        });
      };
      const cancel = requestResponse(received(payload), call, (error, response) => {
        if (error) stream.onError(applicationError(error));
        else stream.onNext(response, true);
      });
      return { ...ignoreExtension, cancel };
    },
    requestStream(payload, n, stream) {
      const producer = requestStream(received(payload), sinkOf(stream));
      producer.request(n);
      return { ...ignoreExtension, ...producer };
    },
    requestChannel(payload, n, complete, stream) {
      const channel = requestChannel(received(payload), sinkOf(stream), stream);
      if (complete) channel.complete();
      channel.request(n);
      return {
        ...ignoreExtension,
        request: (more) => channel.request(more),
        // The library calls this for CANCEL and, right before `onError`, for ERROR.
        cancel: () => queueMicrotask(channel.cancel),
        onNext(item, last) {
          channel.next(received(item));
          if (last) channel.complete();
        },
        onComplete: () => channel.complete(),
        onError(error) {
          if (isCoded(error) && error.code !== ErrorCodes.CANCELED) channel.error();
          else channel.cancel();
        },
      };
    },
  };
}

// ------------------------------------------------------------------ server

function serve(options, listening, failed) {
  if (options.lease) throw new NotSupported('--lease (the library never sends LEASE)');
  const run = (transport, url) =>
    new RSocketServer({
      transport,
      acceptor: { accept: async (setup, peer) => responder(() => peer) },
      fragmentation: fragmentation(options.mtu),
      resume: options.resume === null ? undefined : { sessionTimeout: options.resume * 1000 },
    })
      .bind()
      .then(() => listening(url()), failed);
  if (options.tcp !== null) {
    let server = null;
    run(
      new TcpServerTransport({
        listenOptions: { host: '127.0.0.1', port: options.tcp },
        socketCreator: (settings) => (server = new net.Server(settings)),
      }),
      () => `tcp://127.0.0.1:${server.address().port}`
    );
  }
  if (options.ws !== null) {
    let server = null;
    run(
      new WebsocketServerTransport({
        host: '127.0.0.1',
        port: options.ws,
        wsCreator: (settings) => (server = new WebSocket.Server(settings)),
      }),
      () => `ws://127.0.0.1:${server.address().port}/`
    );
  }
}

// ------------------------------------------------------------------ driver

const RECONNECT_MS = 200;

function dial(url) {
  if (url.protocol === 'tcp:') {
    return new TcpClientTransport({ connectionOptions: { host: url.hostname, port: Number(url.port) } });
  }
  if (url.protocol === 'ws:') {
    return new WebsocketClientTransport({ url: url.href, wsCreator: (to) => new WebSocket(to) });
  }
  throw new NotSupported(`transport ${url.protocol}`);
}

async function connect(options, events) {
  if (options.grant) throw new NotSupported('grant (the library never sends LEASE)');
  let requester = null;
  let over = false;
  const token = options.token || Buffer.from(crypto.randomBytes(8).toString('hex'));
  const connector = new RSocketConnector({
    transport: dial(options.url),
    setup: {
      keepAlive: options.keepAlive,
      lifetime: options.lifetime,
      dataMimeType: 'application/octet-stream',
      metadataMimeType: 'application/octet-stream',
      payload: { data: options.data, metadata: options.metadata },
    },
    fragmentation: fragmentation(options.mtu),
    responder: responder(() => requester),
    // Up to 256 requests beyond a lease wait for the next one.
    lease: options.lease ? {} : undefined,
    resume: options.resume
      ? {
          tokenGenerator: () => token,
          reconnectFunction: () =>
            new Promise((resolve, reject) =>
              setTimeout(() => (over ? reject(new Error('closed')) : resolve()), RECONNECT_MS)
            ),
        }
      : undefined,
  });
  requester = await connector.connect();
  requester.onClose((error) => {
    if (over) return;
    if (isCoded(error)) events.connError(error.code, error.message);
    else if (error && error.message.startsWith('No keep-alive acks')) events.keepaliveTimeout();
    // With resumption this is the end of one link; the library has no sign for the
    // end of the session.
    if (!options.resume) events.closed(error ? error.message : 'closed');
  });
  return connection(requester, () => (over = true));
}

function connection(requester, closing) {
  const receiver = (seen) => ({
    ...ignoreExtension,
    onNext(item, complete) {
      seen.next(received(item));
      if (complete) seen.complete();
    },
    onComplete: () => seen.complete(),
    onError: (error) => seen.error(error),
  });
  return {
    rr: (payload, seen) => requester.requestResponse(payload, receiver(seen)),
    fnf: (payload, seen) => requester.fireAndForget(payload, receiver(seen)),
    push() {
      throw new NotSupported('push (metadataPush of the library is not implemented)');
    },
    stream: (payload, n, seen) => requester.requestStream(payload, n, receiver(seen)),
    channel(first, n, seen) {
      let stream = null;
      let over = false;
      const out = new Outbox(
        (payload) => stream.onNext(payload, false),
        () => stream.onComplete()
      );
      stream = requester.requestChannel(first, n, false, {
        ...receiver(seen),
        request(more) {
          seen.demand(more);
          out.demand(more);
        },
        // The library calls this for CANCEL and, right before `onError`, for ERROR
        // and for the end of the connection.
        cancel() {
          out.shut();
          queueMicrotask(() => !over && seen.cancelled());
        },
        onError(error) {
          over = true;
          out.shut();
          seen.error(error);
        },
      });
      return {
        request: (more) => stream.request(more),
        cancel() {
          over = true;
          out.shut();
          stream.cancel();
        },
        send: (payload) => out.push(payload),
        sendComplete: () => out.end(),
        sendError(message) {
          over = true;
          out.shut();
          stream.onError(new RSocketError(ErrorCodes.APPLICATION_ERROR, message));
        },
      };
    },
    close() {
      closing();
      requester.close();
    },
  };
}

main({ caps, connect, serve });
