#include "results.h"

#include <algorithm>
#include <cstdio>

namespace tenon::conformance {

namespace {

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string fixed(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds);
  return text;
}

std::string indented(const std::string& text) {
  std::string out = "          ";
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "          ";
  }
  return out;
}

// Characters that XML 1.0 allows, markup escaped.
std::string xml(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '&': out += "&amp;"; break;
      case '"': out += "&quot;"; break;
      case '\n': out += "&#10;"; break;
      case '\t': out += ' '; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  return out;
}

}  // namespace

int64_t Summary::count(Outcome outcome) const {
  return std::count_if(results.begin(), results.end(), [&](const Result& r) { return r.outcome == outcome; });
}

bool Summary::all_well() const { return count(Outcome::Pass) + count(Outcome::Skip) == static_cast<int64_t>(results.size()); }

std::string to_line(const Result& result) {
  std::string line = padded(outcome_name(result.outcome), 8) + "  " + padded(result.id, 28) + "  " + result.subject;
  while (line.back() == ' ') line.pop_back();
  if (result.outcome == Outcome::Skip) return line + "  (" + result.reason + ")";
  if (result.outcome == Outcome::Pass) return line;
  line += "\n" + indented(result.reason);
  if (const Check* check = find_check(result.id)) line += "\n" + indented(std::string("why: ") + check->protects);
  return line;
}

std::string to_text(const Summary& summary) {
  std::string text = summary.file + (summary.id.empty() ? "" : " (" + summary.id + " " + summary.version + ")") + "\n";
  for (const Result& result : summary.results) text += to_line(result) + "\n";
  for (const Outcome outcome : {Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Crash, Outcome::Timeout})
    text += concat(outcome == Outcome::Pass ? "" : ", ", summary.count(outcome), " ", outcome_name(outcome));
  return text + concat(" (level ", summary.level, ", seed ", summary.seed, ")\n");
}

Value to_value(const Summary& summary) {
  Value counts = Value::table(), checks = Value::list();
  for (const Outcome outcome : {Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Crash, Outcome::Timeout})
    counts.set(outcome_name(outcome), summary.count(outcome));
  for (const Result& result : summary.results) {
    const Check* check = find_check(result.id);
    Value row = Value::table();
    row.set("id", result.id), row.set("subject", result.subject), row.set("result", outcome_name(result.outcome));
    row.set("reason", result.reason), row.set("protects", check ? check->protects : ""), row.set("seconds", result.seconds);
    checks.as_list().push_back(std::move(row));
  }
  Value out = Value::table();
  out.set("file", summary.file), out.set("id", summary.id), out.set("version", summary.version);
  out.set("level", summary.level), out.set("seed", static_cast<int64_t>(summary.seed)), out.set("ok", summary.all_well());
  out.set("counts", std::move(counts)), out.set("checks", std::move(checks));
  return out;
}

std::string to_junit(const Summary& summary) {
  double seconds = 0;
  for (const Result& result : summary.results) seconds += result.seconds;
  const int64_t errors = summary.count(Outcome::Crash) + summary.count(Outcome::Timeout);
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  text += concat("<testsuites><testsuite name=\"", xml(summary.id.empty() ? summary.file : summary.id), "\" tests=\"",
                 summary.results.size(), "\" failures=\"", summary.count(Outcome::Fail), "\" errors=\"", errors, "\" skipped=\"",
                 summary.count(Outcome::Skip), "\" time=\"", fixed(seconds), "\">\n");
  for (const Result& result : summary.results) {
    const std::string group = result.id.substr(0, result.id.find('.'));
    text += concat("<testcase classname=\"", xml(result.subject.empty() ? group : result.subject), "\" name=\"", xml(result.id),
                   "\" time=\"", fixed(result.seconds), "\"");
    const std::string first_line = result.reason.substr(0, result.reason.find('\n'));
    if (result.outcome == Outcome::Pass)
      text += "/>\n";
    else if (result.outcome == Outcome::Skip)
      text += concat("><skipped message=\"", xml(result.reason), "\"/></testcase>\n");
    else
      text +=
          concat("><", result.outcome == Outcome::Fail ? "failure" : "error", " type=\"", outcome_name(result.outcome), "\" message=\"",
                 xml(first_line), "\">", xml(result.reason), "</", result.outcome == Outcome::Fail ? "failure" : "error", "></testcase>\n");
  }
  return text + "</testsuite></testsuites>\n";
}

std::string list_text() {
  std::string text;
  for (const Check& check : all_checks()) text += concat(padded(check.id, 28), "  ", check.level, "  ", check.protects, "\n");
  return text;
}

Value list_value() {
  Value list = Value::list();
  for (const Check& check : all_checks()) {
    Value row = Value::table();
    row.set("id", check.id), row.set("level", check.level), row.set("protects", check.protects);
    list.as_list().push_back(std::move(row));
  }
  return list;
}

}  // namespace tenon::conformance
