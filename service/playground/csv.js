// A CSV file as hourly readings: a heading, then a row an hour with the time and seven columns.
//
// Times are those of one local clock without an offset, or instants with one. With offsets a row is an hour after the
// row before when the instants are, so a change to summer time leaves no gap; the series runs on the first row's clock.
import { t } from "./words.js";

const MISSING = /^(nan|na|n\/a|null|none)?$/i; // an empty cell, too, is a missing reading
export const COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"];
const HOUR_MS = 3_600_000;
const TIME =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?(?:[.,]\d+)?)?(?: ?(?:(Z)|([+-])(\d\d)(?::?(\d\d))?))?$/i;

/** {start, times, values} of the text; throws an Error whose message says which line is wrong. */
export function readSeries(text) {
  const lines = text
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .filter((line) => line.trim());
  if (lines.length < 2) throw new Error(t("The file has no rows."));
  const mark = lines[0].includes(";") ? ";" : ",";
  const heads = lines[0].split(mark).map((head) => head.trim().replace(/^"|"$/g, ""));
  const date = heads.findIndex((head) => /^(date|time|timestamp|datetime)$/i.test(head));
  const places = COLUMNS.map((name) => heads.indexOf(name));
  const missing = COLUMNS.filter((_, index) => places[index] < 0);
  if (date < 0) missing.unshift("date");
  if (missing.length) throw new Error(t("The heading lacks {names}.", { names: missing.join(", ") }));
  const rows = lines.slice(1).map((line, index) => readRow(line.split(mark), date, places, index + 2));
  const { offset } = rows[0];
  checkOffsets(rows);
  for (const row of rows) row.time += (offset - row.offset) * 60_000; // all on the clock of the first
  checkHours(rows);
  return { start: iso(rows[0].time) + offsetText(offset), times: rows.map((row) => row.time), values: rows.map((row) => row.values) };
}

function readRow(cells, date, places, line) {
  const found = readTime((cells[date] ?? "").trim().replace(/^"|"$/g, ""));
  if (!found) throw new Error(t("Line {line} has no date.", { line }));
  const values = places.map((place, index) => {
    const cell = cells[place]?.trim() ?? "missing";
    if (MISSING.test(cell)) return null;
    const value = Number(cell);
    if (!Number.isFinite(value))
      throw new Error(t("Line {line} has no number in {name}.", { line, name: COLUMNS[index] }));
    return value;
  });
  return { ...found, values };
}

/** {time, offset} of a text, null when it is no time: milliseconds on its own clock, and minutes or null for none. */
function readTime(text) {
  const [, year, month, day, hour = "0", minute = "0", second = "0", zulu, sign, hours, minutes = "0"] =
    TIME.exec(text) ?? [];
  if (!year || minute > 59 || second > 59 || hours > 23 || minutes > 59) return null;
  const time = Date.UTC(year, month - 1, day, hour, minute, second);
  const plain = new Date(time).toISOString().slice(0, 13); // a 30th of February would have become a day in March
  if (plain !== `${year}-${month}-${day}T${hour.padStart(2, "0")}`) return null;
  const size = 60 * Number(hours ?? 0) + Number(minutes);
  return { time, offset: zulu ? 0 : sign ? (sign === "-" ? -size : size) : null };
}

function checkOffsets(rows) {
  const other = rows.findIndex(({ offset }) => (offset === null) !== (rows[0].offset === null));
  const text = "Line {line} has a time with an offset where the first has none, or without where it has one.";
  if (other > 0) throw new Error(t(text, { line: other + 2 }));
}

function offsetText(offset) {
  if (offset === null) return "";
  const two = (value) => String(value).padStart(2, "0");
  const size = Math.abs(offset);
  return `${offset < 0 ? "-" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

function checkHours(rows) {
  const wrong = rows.findIndex((row, index) => index > 0 && row.time - rows[index - 1].time !== HOUR_MS);
  if (wrong > 0) throw new Error(t("Line {line} is not one hour after the line before.", { line: wrong + 2 }));
}

/** A time without a zone, as it stood in the file. */
export const iso = (time) => new Date(time).toISOString().slice(0, 19);
