// Prints what AsyncAPI's own parser finds in the document on standard input, as JSON; exit code 1 if it can't be used.
// node validate.mjs PACKAGE, which is @asyncapi/parser, or parser-of-eventcatalog: the version that EventCatalog uses.
import { readFileSync } from "node:fs";

const { Parser } = await import(process.argv[2]);
const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
const operations = document?.operations().all() ?? [];
console.log(
  JSON.stringify({
    diagnostics: diagnostics.map(({ code, severity, message }) => ({ code, severity, message })),
    operations: operations.map((it) => it.id()),
  }),
);
process.exit(document ? 0 : 1);
