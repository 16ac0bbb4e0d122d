// Prints what AsyncAPI's own parser finds in each of the documents on standard input, as JSON; exit code 1 if one can't be
// used.
// node validate.mjs PACKAGE, which is @asyncapi/parser, or parser-of-eventcatalog: the version that EventCatalog uses.
import { readFileSync } from "node:fs";

const { Parser } = await import(process.argv[2]);
const found = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  const { document, diagnostics } = await new Parser().parse(text);
  found.push({
    isUsable: document !== undefined,
    diagnostics: diagnostics.map(({ code, severity, message }) => ({ code, severity, message })),
    operations: document?.operations().all().map((it) => it.id()) ?? [],
  });
}
console.log(JSON.stringify(found));
process.exit(found.every((it) => it.isUsable) ? 0 : 1);
