// The server as a process of its own, and a network between it and the browser
// whose cables can be pulled.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import net from 'node:net';

export class Server {
  #process;
  url = null;

  static async start(program, ...options) {
    const server = new Server();
    server.#process = spawn(program, ['--listen', '127.0.0.1:0', ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
    for await (const line of createInterface(server.#process.stdout)) {
      server.url = /http:\S+/.exec(line)?.[0];
      if (server.url) return server;
    }
    throw new Error('the server did not say where it is');
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  async stats() {
    return (await fetch(new URL('stats', this.url))).json();
  }

  /** At once, as by a power cut. */
  kill() {
    const ended = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGKILL');
    return ended;
  }
}

export class Network {
  #listener = net.createServer((browser) => this.#connect(browser));
  #cables = new Set();
  server = null;

  static async start() {
    const network = new Network();
    await new Promise((resolve) => network.#listener.listen(0, '127.0.0.1', resolve));
    return network;
  }

  get url() {
    return `http://127.0.0.1:${this.#listener.address().port}`;
  }

  /** Resets all connections, whatever is on its way in them. */
  cut() {
    for (const cable of this.#cables) for (const end of cable) end.resetAndDestroy();
  }

  stop() {
    this.cut();
    this.#listener.close();
  }

  #connect(browser) {
    const server = net.connect(this.server.port, '127.0.0.1');
    const cable = [browser, server];
    this.#cables.add(cable);
    const gone = () => {
      this.#cables.delete(cable);
      for (const end of cable) end.destroy();
    };
    for (const end of cable) end.on('error', gone).on('close', gone);
    browser.pipe(server).pipe(browser);
  }
}
