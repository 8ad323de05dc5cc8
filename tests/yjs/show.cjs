// Applies the update on standard input, lets a second program append to its texts, merges that, and prints what the
// map `row` then holds, or the root that is named with its kind (`show.cjs NAME KIND`): shared types and what JSON lacks
// as objects of one member, named by their kind.
const Y = require("yjs");

const shown = (value) => {
  if (value instanceof Y.Map) return { map: Object.fromEntries([...value.entries()].map(([k, v]) => [k, shown(v)])) };
  if (value instanceof Y.Array) return { array: value.toArray().map(shown) };
  if (value instanceof Y.Text) return { text: value.toString() };
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("hex") };
  if (typeof value === "bigint") return { bigint: String(value) };
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0)))
    return { number: Object.is(value, -0) ? "-0" : String(value) };
  if (value !== null && typeof value === "object") return { plain: value };
  return value;
};

const first = new Y.Doc();
Y.applyUpdate(first, require("fs").readFileSync(0));
if (first.store.pendingStructs !== null || first.store.pendingDs !== null) throw new Error("the update is not whole");
const second = new Y.Doc();
Y.applyUpdate(second, Y.encodeStateAsUpdate(first));
const [name, kind] = process.argv.slice(2);
const texts = name ? [second.get(name, Y[kind])] : second.getMap("row").values();
for (const value of texts) if (value instanceof Y.Text) value.insert(value.length, "!");
Y.applyUpdate(first, Y.encodeStateAsUpdate(second));
process.stdout.write(JSON.stringify(name ? shown(first.get(name, Y[kind])) : shown(first.getMap("row")).map));
