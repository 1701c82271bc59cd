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

// Bytes of the character at `at`, 0 when it is no UTF-8.
size_t utf8_bytes(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(at);
  if (lead < 0x80) return 1;
  const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  unsigned code = lead & (n == 2 ? 0x1fu : n == 3 ? 0x0fu : 0x07u);
  for (size_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(at + i) & 0x3f);
  }
  const bool is_shortest = code >= (n == 2 ? 0x80u : n == 3 ? 0x800u : 0x10000u);
  return lead < 0xc0 || lead > 0xf7 || !is_shortest || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) || (code & 0xfffe) == 0xfffe
             ? 0
             : n;
}

// What a plugin says, without what terminals obey or XML forbids.
std::string readable(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_bytes(text, i);
    const auto c = static_cast<unsigned char>(text[i]);
    if (n == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
      out += '?';
    else
      out.append(text, i, n);
    i += std::max<size_t>(n, 1);
  }
  return out;
}

std::string indented(const std::string& said) {
  const std::string text = readable(said);
  std::string out = "          ";
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "          ";
  }
  return out;
}

std::string xml(const std::string& text) {
  std::string out;
  for (const char c : readable(text)) switch (c) {
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '&': out += "&amp;"; break;
      case '"': out += "&quot;"; break;
      case '\n': out += "&#10;"; break;
      case '\t': out += ' '; break;
      default: out += c;
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
  if (result.outcome == Outcome::Skip) return line + "  (" + readable(result.reason) + ")";
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
