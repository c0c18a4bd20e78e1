// A CSV file as hourly readings: a heading, then a row an hour with the time and seven columns.
import { t } from "./words.js";

const MISSING = /^(nan|na|n\/a|null|none)?$/i; // an empty cell, too, is a missing reading
export const COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"];
const HOUR_MS = 3_600_000;

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
  checkHours(rows);
  return { start: iso(rows[0].time), times: rows.map((row) => row.time), values: rows.map((row) => row.values) };
}

function readRow(cells, date, places, line) {
  const time = Date.parse(`${(cells[date] ?? "").trim().replace(/^"|"$/g, "").replace(" ", "T").replace(/Z$/, "")}Z`);
  if (Number.isNaN(time)) throw new Error(t("Line {line} has no date.", { line }));
  const values = places.map((place, index) => {
    const cell = cells[place]?.trim() ?? "missing";
    if (MISSING.test(cell)) return null;
    const value = Number(cell);
    if (!Number.isFinite(value))
      throw new Error(t("Line {line} has no number in {name}.", { line, name: COLUMNS[index] }));
    return value;
  });
  return { time, values };
}

function checkHours(rows) {
  const wrong = rows.findIndex((row, index) => index > 0 && row.time - rows[index - 1].time !== HOUR_MS);
  if (wrong > 0) throw new Error(t("Line {line} is not one hour after the line before.", { line: wrong + 2 }));
}

/** A time without a zone, as it stood in the file. */
export const iso = (time) => new Date(time).toISOString().slice(0, 19);
