// How what is served became the champion: its gates, and the promotions and rollbacks of its model.

import { el } from "./dom.js";
import { panel } from "./panel.js";
import * as words from "./words.js";

const SHOWN = 6; // records that stand open

// What a record says, of its version.
const ACTIONS = {
  promote: (version) => `Version ${version} promoted`,
  force: (version) => `Version ${version} promoted by force`,
  rollback: (version) => `Rolled back to version ${version}`,
  refuse: (version) => `Version ${version} refused`,
};

/** The panels; `releases` is what `api.releases` gave. */
export function promotionPanels(releases) {
  const { failure, model, model_version: version, promotion, records = [] } = releases;
  if (failure?.code === "UNIMPLEMENTED") return []; // an older service
  if (failure || !model || !releases.read_at) {
    return [panel("Gates and history", false, ...nothing(releases), stale(releases))];
  }
  const gates = promotion?.gates ?? [];
  const isOverridden = gates.some((gate) => !gate.holds);
  return [
    panel("Gates", isOverridden, ...gatesView(version, promotion, gates)),
    panel("History", false, ...historyView(version, records), stale(releases)),
  ];
}

/** Why there is neither. */
function nothing({ failure, model, model_version: version }) {
  if (failure) return [el("p", { class: "notice warn" }, `They cannot be read. ${failure.message}`)];
  if (model) return [el("p", {}, "Not read from the registry yet.")];
  const what = version ? `Version ${version} was chosen by its number, so no alias is followed` : "Served from a folder";
  return [el("p", {}, `${what}: no promotions to show.`)];
}

/** How old what is shown is, and why it is no newer. */
function stale({ last_error: error, read_at: at }) {
  const age = Number(at) ? `read ${words.seconds(Date.now() / 1000 - at)} ago.` : "";
  if (!error) return age && el("p", { class: "hint" }, `From the registry, ${age}`);
  const since = age && ` What is shown was ${age}`;
  return el("p", { class: "notice warn", dir: "auto" }, `The registry cannot be read: ${error}.${since}`);
}

function gatesView(version, promotion, gates) {
  if (!promotion)
    return [el("p", {}, `No record of a promotion of version ${version} was found, and so no gates.`)];
  const failed = gates.filter((gate) => !gate.holds).length;
  let outcome = `all ${words.count(gates.length)} gates held`;
  if (promotion.action === "force") outcome += ", but not everything could be compared";
  if (failed) outcome = `${words.count(failed)} of ${words.plural(gates.length, "gate")} did not hold`;
  if (!gates.length) outcome = "nothing was compared";
  const how = promotion.action === "force" ? "promoted by force" : "promoted";
  return [
    el("p", {}, `Version ${version} was ${how} on `, moment(promotion.at), `: ${outcome}.`),
    gates.length > 0 &&
      el(
        "table",
        { class: "gates" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col" }, el("span", { class: "unseen" }, "Result")),
            ["Gate", "Measured", "Bound"].map((name) => el("th", { scope: "col" }, name)),
          ),
        ),
        el("tbody", {}, gates.map(gateRow)),
      ),
    gates
      .filter((gate) => gate.warning)
      .map((gate) =>
        el("p", { class: "notice warn", dir: "auto" }, `${gate.title || gate.name}: ${gate.warning}`),
      ),
  ];
}

function gateRow(gate) {
  const name = gate.title || gate.name.replaceAll("_", " ");
  return el(
    "tr",
    {},
    el(
      "td",
      { class: gate.holds ? "good" : "bad" },
      el("span", { "aria-hidden": "true" }, gate.holds ? "✓" : "✗"),
      el("span", { class: "unseen" }, gate.holds ? "passed" : "overridden"),
    ),
    el(
      "th",
      { scope: "row", dir: "auto", title: gate.name },
      name,
      !gate.holds && el("em", { class: "bad", "aria-hidden": "true" }, "overridden"),
    ),
    el("td", { class: "number" }, shown(gate.shown_figure, gate.figure)),
    el("td", { class: "number" }, shown(gate.shown_bound, gate.bound)),
  );
}

/** A figure with its unit, or as a number where the record has no text of it. */
function shown(text, number) {
  return text || (Number.isFinite(number) ? words.digits(number) : "–");
}

function historyView(version, records) {
  if (!records.length) return [el("p", {}, "No record of a move of the champion was found.")];
  const current = records.find((record) => record.moved && record.after === version);
  return [
    moves(records.slice(0, SHOWN), current),
    records.length > SHOWN &&
      el(
        "details",
        { class: "older" },
        el("summary", {}, `${words.count(records.length - SHOWN)} older`),
        moves(records.slice(SHOWN), current),
      ),
    el("p", { class: "hint" }, el("code", {}, "make history"), " shows all, and checks that none was altered."),
  ];
}

function moves(records, current) {
  return el(
    "ol",
    { class: "moves" },
    records.map((record) => move(record, record === current)),
  );
}

function move(record, isCurrent) {
  const { action, before, outcome } = record;
  const said = ACTIONS[action] ?? ((version) => `${action} version ${version}`);
  const failed = (record.gates ?? []).filter((gate) => !gate.holds).map((gate) => gate.name);
  const from = action === "refuse" ? `version ${before} stayed` : `before: version ${before}`;
  return el(
    "li",
    { class: `move ${ACTIONS[action] ? action : "other"}` },
    el(
      "div",
      { class: "move-head" },
      el("strong", {}, said(record.after)),
      isCurrent && el("span", { class: "role" }, "served"),
      outcome !== "done" && el("span", { class: "role canary" }, outcome),
    ),
    el("div", { class: "move-foot" }, moment(record.at), before && `, ${from}`),
    el("div", { class: "move-foot" }, "by ", el("span", { dir: "auto" }, record.actor)),
    record.reason && el("p", { class: "move-reason", dir: "auto" }, record.reason),
    failed.length > 0 &&
      el(
        "p",
        { class: "move-foot bad", dir: "auto" },
        `${action === "force" ? "Overridden" : "Did not hold"}: ${failed.join(", ")}`,
      ),
  );
}

/** A time of the registry, in UTC; a text that is no time is shown as it is. */
function moment(at) {
  const time = new Date(at);
  if (Number.isNaN(time.getTime())) return el("span", { dir: "auto" }, at);
  const parts = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" };
  const text = time.toLocaleString("en-GB", { ...parts, timeZone: "UTC" });
  return el("time", { datetime: time.toISOString() }, `${text} UTC`);
}
