// Has OpenClaw judge a configuration that is not in force: `config validate` of a file beside the
// real one, so that what it includes is found. One line of JSON comes in. When that input ends,
// whoever asked has gone.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const PREFIX = '.clawfarm-check-';
let file;
let child;
// However this ends, the file goes; only after a SIGKILL the next one finds it.
process.on('exit', () => {
  if (child) child.kill('SIGKILL');
  if (file) fs.rmSync(file, { force: true });
});
const stop = () => process.exit(1);
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM']) process.on(signal, stop);

function forget(folder, olderThan) {
  for (const name of fs.readdirSync(folder)) {
    const left = path.join(folder, name);
    if (name.startsWith(PREFIX) && fs.lstatSync(left).mtimeMs < olderThan) fs.rmSync(left, { force: true });
  }
}

function judge(asked) {
  setTimeout(stop, asked.seconds * 1000);
  try { forget(asked.folder, Date.now() - 2 * asked.seconds * 1000); } catch { /* somebody else did */ }
  const own = path.join(asked.folder, `${PREFIX}${process.pid}-${Date.now()}.json`);
  // Before it is there: what a full disk took half of goes, too.
  file = own;
  fs.writeFileSync(own, asked.document, { flag: 'wx', mode: 0o600 });
  const args = ['--max-old-space-size=384', asked.program, 'config', 'validate', '--json'];
  const env = { ...asked.env, OPENCLAW_CONFIG_PATH: own };
  child = spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'ignore'] });
  child.on('error', stop);
  child.on('close', (code) => process.exit(code ?? 1));
}

let text = '';
process.stdin.setEncoding('utf8');
process.stdin.on('end', stop);
process.stdin.on('error', stop);
process.stdin.on('data', (piece) => {
  if (text === null) return;
  text += piece;
  const end = text.indexOf('\n');
  if (end < 0) return;
  const line = text.slice(0, end);
  text = null;
  judge(JSON.parse(line));
});
