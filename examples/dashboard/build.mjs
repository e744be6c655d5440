// Builds the page: sources and libraries in, one file that needs no other out.
//
//   node build.mjs            writes dist/
//   node build.mjs --check    says whether dist/ is what the sources give

import { build } from 'esbuild';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

const here = path.dirname(fileURLToPath(import.meta.url));
const page = (name) => path.join(here, 'page', name);

const bundle = await build({
  entryPoints: [page('main.js'), page('style.css')],
  bundle: true,
  minify: true,
  write: false,
  metafile: true,
  outdir: path.join(here, 'dist'),
  absWorkingDir: here,
  format: 'iife',
  charset: 'utf8',
  target: ['chrome111', 'firefox113', 'safari16.4'],
  inject: [page('buffer.js')],
  define: { global: 'globalThis' },
  legalComments: 'none',
});

function output(extension) {
  const text = bundle.outputFiles.find((file) => file.path.endsWith(extension)).text.trim();
  if (/<\/(script|style)/i.test(text)) throw new Error(`${extension}: it would end its own element`);
  return text;
}

const packages = new Set();
for (const input of Object.keys(bundle.metafile.inputs)) {
  const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
  if (name) packages.add(name);
}

let licences = 'The page contains these packages of the npm registry, under their licences.\n';
for (const name of [...packages].sort()) {
  const folder = path.join(here, 'node_modules', name);
  const { version, license } = JSON.parse(await readFile(path.join(folder, 'package.json'), 'utf8'));
  const text = await readFile(path.join(folder, 'LICENSE'), 'utf8');
  licences += `\n${'='.repeat(80)}\n${name} ${version} (${license})\n${'='.repeat(80)}\n\n${text.trim()}\n`;
}

const notice = `<!-- Built by build.mjs: change the sources in page/ instead. Contains ${[...packages].sort().join(', ')}: see /licences. -->\n`;
const html = (await readFile(page('index.html'), 'utf8'))
  .replace('<html', () => notice + '<html')
  .replace('<!-- style -->', () => `<style>${output('.css')}</style>`)
  .replace('<!-- script -->', () => `<script>${output('.js')}</script>`);

const files = { 'page.html': html, 'licences.txt': licences };
const isCheck = process.argv.includes('--check');
await mkdir(path.join(here, 'dist'), { recursive: true });
for (const [name, text] of Object.entries(files)) {
  const file = path.join(here, 'dist', name);
  if (!isCheck) await writeFile(file, text);
  else if ((await readFile(file, 'utf8').catch(() => '')) !== text) {
    console.error(`dist/${name} is not what page/ gives: run 'npm run build' and commit it`);
    process.exitCode = 1;
  }
  console.log(`dist/${name}: ${Buffer.byteLength(text)} bytes`);
}
