// Records anew what the command line writes for the commands in expected.json; the package and the pages must write the same.
// Needed when a model that ships changes, as is STERNA_RECORD_BITS=1 for core/tests/shipped.rs.
//
//   cargo build --release && node tests/web/record.mjs

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(dirname(here));
const path = join(here, 'expected.json');
const expected = JSON.parse(readFileSync(path, 'utf8'));

for (const one of [...expected.cases, ...Object.values(expected.pages)]) {
  const [, ...args] = one.command.match(/"[^"]*"|\S+/g).map((word) => word.replace(/^"(.*)"$/, '$1'));
  const written = execFileSync(join(root, 'target', 'release', 'sterna'), args, { cwd: root, encoding: 'utf8' });
  // The line that the program ends after a text.
  one.text = written.replace(/\n$/, '');
}
writeFileSync(path, `${JSON.stringify(expected, null, 2)}\n`);
