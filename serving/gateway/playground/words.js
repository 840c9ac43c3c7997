// What the service reports, in words.

const BASIS = {
  BASIS_QUERY: "The answer rests on the question as it was asked.",
  BASIS_CONTEXT: "The model knows no item of this history, so the answer rests on other features or the time.",
  BASIS_POPULAR:
    "The model knows nothing of what was given, so these are the most popular items; a score is the item's share of the interactions.",
  BASIS_NONE:
    "The model knows nothing of what was given, and no item is more popular than others: so there are no hits.",
  BASIS_ITEM: "The answer rests on the item's own vector.",
};

/** What an answer rests on. Values that this page does not know are shown as they are. */
export function basisInWords(basis = "BASIS_QUERY", mode = "text") {
  if (mode === "item" && basis === "BASIS_QUERY") return BASIS.BASIS_ITEM;
  return BASIS[basis] ?? `The answer rests on ${plain(basis, "BASIS_")}.`;
}

/** How the items were searched; `exact` says that the bundle's index compares all of them. */
export function planInWords(plan = "PLAN_UNFILTERED", exact = false) {
  const index = exact ? "All items were compared" : "The graph was searched";
  const words = {
    PLAN_UNFILTERED: `${index}, without a filter.`,
    PLAN_EMPTY: "Nothing was searched, because no item passes the filter.",
    PLAN_EXACT: "All items that pass the filter were compared.",
    PLAN_GRAPH: "The graph was searched, wider until enough items passed the filter.",
    PLAN_GRAPH_THEN_EXACT:
      "The graph was searched, but too few of its items passed; so all that pass were compared.",
    PLAN_POPULAR: "The most popular items that pass the filter.",
  };
  return words[plan] ?? `Searched by ${plain(plan, "PLAN_")}.`;
}

/** Which scores ranked the hits; empty where the bundle ranks by vectors alone. */
export function fusionInWords(fusion = "FUSION_DEFAULT") {
  const words = {
    FUSION_DEFAULT: "",
    FUSION_DENSE: "Vectors alone ranked the items.",
    FUSION_LEXICAL: "Words alone (BM25) ranked the items.",
    FUSION_HYBRID: "Vectors and words (BM25) ranked the items.",
  };
  return words[fusion] ?? `Ranked by ${plain(fusion, "FUSION_")}.`;
}

const plain = (name, prefix) => String(name).replace(prefix, "").toLowerCase().replaceAll("_", " ");

/**
 * A failure as a headline, and what to do about it.
 * @param {{code: string, message: string, retryAfter: number|null}} failure
 * @returns {{title: string, advice: string, action: "token"|"retry"|null}} commands of the advice stand in backticks.
 */
export function failureInWords(failure) {
  const wait = failure.retryAfter ? ` Ask again in ${seconds(failure.retryAfter)}.` : "";
  switch (failure.code) {
    case "GATEWAY_DOWN":
      return {
        title: "The gateway does not answer",
        advice: "Start it again with `make serve-http`, then ask once more.",
        action: "retry",
      };
    case "UNAVAILABLE":
      return {
        title: "The service does not answer",
        advice: `Start it with \`make serve\`, or start the gateway with the \`--address\` of one that runs.${wait}`,
        action: "retry",
      };
    case "UNAUTHENTICATED":
      return {
        title: "The service wants a token that it knows",
        advice:
          "Enter a token of the service's token file. To make one: `python -m twinspire.serving token --name NAME --role reader`",
        action: "token",
      };
    case "PERMISSION_DENIED":
      return {
        title: "This token is not allowed to ask that",
        advice: "Enter a token with the role reader or above.",
        action: "token",
      };
    case "RESOURCE_EXHAUSTED":
      return {
        title: "The service refuses for now",
        advice: wait.trim() || "Ask again a little later, or for fewer items.",
        action: "retry",
      };
    case "DEADLINE_EXCEEDED":
      return {
        title: "There was no answer in time",
        advice: "The service may be overloaded: `make status` shows its queue.",
        action: "retry",
      };
    case "INVALID_ARGUMENT":
      return {
        title: "The service does not accept this question",
        advice: "Change what the message names, and ask again.",
        action: null,
      };
    case "NOT_FOUND":
      return {
        title: "The service does not know this",
        advice: "Check the id: ids are those of the items, as answers show them.",
        action: null,
      };
    default:
      return {
        title: `The service failed (${failure.code})`,
        advice: "The log of the gateway and that of the service say more.",
        action: "retry",
      };
  }
}

/** A duration of microseconds: `840 µs`, `1.32 ms`, `2.10 s`. */
export function duration(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${digits(us / 1000)} ms`;
  return `${digits(us / 1e6)} s`;
}

/** A number in three significant digits. */
export function digits(value) {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

/** A count with thousands separators. */
export const count = (value) => Number(value ?? 0).toLocaleString("en");

/** `1 item`, `2 items`. */
export const plural = (value, noun) => `${count(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;

/** A part as per cent. */
export const percent = (part) => `${Number((part * 100).toFixed(part < 0.1 ? 1 : 0))} %`;

/** A score as the list shows it. */
export function score(value) {
  const number = Number(value ?? 0);
  return Math.abs(number) < 0.001 && number !== 0
    ? number.toExponential(1)
    : number.toFixed(Math.abs(number) < 100 ? 4 : 1);
}

/** A span of time since a moment, in the largest unit: `3 min`. */
export function seconds(value) {
  if (value < 60) return `${Math.max(1, Math.round(value))} s`;
  if (value < 3600) return `${Math.round(value / 60)} min`;
  if (value < 86_400) return `${Math.round(value / 3600)} h`;
  return plural(Math.round(value / 86_400), "day");
}

/** Bytes in the largest binary unit. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = value > 0 ? Math.min(units.length - 1, Math.floor(Math.log2(value) / 10)) : 0;
  return `${step ? digits(value / 1024 ** step) : value} ${units[step]}`;
}
