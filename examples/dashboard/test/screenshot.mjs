// Takes the picture that README.md shows. On a quiet machine, since its figures are real.
//
//   node test/screenshot.mjs [FILE]

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { Server } from './network.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? path.join(here, '../../../target');
const file = process.argv[2] ?? path.join(here, '../screenshot.webp');

const server = await Server.start(path.join(target, 'release/examples/dashboard'));
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  const [ada, grace] = [await browser.newPage({ viewport: { width: 1280, height: 1119 } }), await browser.newPage()];
  for (const [page, name] of [[grace, 'Grace'], [ada, 'Ada']]) {
    await page.goto(server.url);
    await page.fill('#name', name);
    await page.press('#name', 'Tab');
  }
  const seconds = (n) => ada.waitForTimeout(n * 1000);
  const says = async (page, words) => {
    await page.fill('#words', words);
    await page.press('#words', 'Enter');
    await ada.waitForFunction((words) => document.getElementById('heard').textContent.includes(words), words);
  };
  await ada.locator('#window').fill('4');
  await ada.click('#run');
  await seconds(10);
  await ada.click('#chips button:nth-child(2)');
  await ada.click('#many');
  await ada.waitForFunction(() => / ms/.test(document.getElementById('median').textContent), null, { timeout: 120_000 });
  await seconds(10);
  await ada.click('#cut');
  await ada.waitForFunction(() => /nothing lost/.test(document.getElementById('verdict').textContent));
  await says(ada, 'I just cut my link. Did you notice?');
  await says(grace, 'Not at all.');
  await seconds(8);
  await ada.evaluate(() => document.activeElement.blur());
  await ada.click('[data-grant="50"]');
  await ada.waitForTimeout(250);
  const devtools = await ada.context().newCDPSession(ada);
  const { data } = await devtools.send('Page.captureScreenshot', { format: 'webp', quality: 82 });
  await writeFile(file, Buffer.from(data, 'base64'));
} finally {
  await browser.close();
  await server.kill();
}
