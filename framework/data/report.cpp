#include "data/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace tenon::host {

namespace {

double percent(int64_t part, int64_t whole) { return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0; }

struct Lengths {
  int64_t min = 0, median = 0, p95 = 0, max = 0;
  double mean = 0;
};

Lengths lengths_of(const Dataset& set) {
  std::vector<int64_t> sorted;
  for (const Row& row : set.rows)
    for (int64_t sample : row.samples) sorted.push_back(static_cast<int64_t>(set.samples[static_cast<size_t>(sample)].ids.size()));
  if (sorted.empty()) return {};
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  return {sorted.front(), sorted[n / 2], sorted[std::min(n - 1, n * 95 / 100)], sorted.back(),
          static_cast<double>(set.counts.tokens) / static_cast<double>(n)};
}

double fill_percent(const Dataset& set) { return percent(set.counts.tokens, static_cast<int64_t>(set.rows.size()) * set.max_length); }

Value counts_value(const DataCounts& counts) {
  Value v = Value::table();
  v.set("records", counts.records);
  v.set("samples", counts.samples);
  v.set("tokens", counts.tokens);
  v.set("trained_tokens", counts.trained_tokens);
  v.set("overlong", counts.overlong);
  v.set("untrained", counts.untrained);
  v.set("without_end", counts.without_end);
  v.set("media", counts.media);
  return v;
}

Value set_value(const Dataset& set) {
  Value v = counts_value(set.counts);
  const Lengths lengths = lengths_of(set);
  Value l = Value::table();
  l.set("min", lengths.min);
  l.set("median", lengths.median);
  l.set("mean", lengths.mean);
  l.set("p95", lengths.p95);
  l.set("max", lengths.max);
  v.set("lengths", std::move(l));
  v.set("rows", set.rows.size());
  v.set("packed", set.is_packed);
  if (set.is_packed) v.set("fill_percent", fill_percent(set));
  Value files = Value::list();
  for (const FileSummary& file : set.files) {
    Value f = Value::table();
    f.set("path", file.path);
    f.set("format", file.format);
    f.set("weight", file.weight);
    const Value counts = counts_value(file.counts);
    for (const auto& [key, value] : counts.as_table()) f.set(key, value);
    files.as_list().push_back(std::move(f));
  }
  v.set("files", std::move(files));
  v.set("warnings", Value(set.warnings));
  return v;
}

std::string set_text(const char* name, const Dataset& set) {
  const Lengths l = lengths_of(set);
  std::string text = fmt::format("{}: {}\n", name, summary_line(set));
  for (const FileSummary& file : set.files)
    text += fmt::format("  {} ({}{}): {} records, {} samples\n", file.path, file.format,
                        file.weight == 1 ? "" : fmt::format(", weight {:g}", file.weight), file.counts.records, file.counts.samples);
  text += fmt::format("  tokens a sample: {} to {}, median {}, mean {:.1f}, 95 % at most {}\n", l.min, l.max, l.median, l.mean, l.p95);
  for (const auto& warning : set.warnings) text += "  warning: " + warning + "\n";
  return text;
}

// Control characters as escapes; the rest as it is.
std::string quoted(const std::string& spelling) {
  std::string out = "\"";
  for (const char c : spelling) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + "\"";
}

}  // namespace

std::string summary_line(const Dataset& set) {
  std::string text = fmt::format("{} samples, {} tokens ({:.0f} % trained)", human_count(set.counts.samples),
                                 human_count(set.counts.tokens), percent(set.counts.trained_tokens, set.counts.tokens));
  if (set.is_packed)
    text += fmt::format(" packed into {} rows of {}, {:.1f} % full", human_count(static_cast<int64_t>(set.rows.size())), set.max_length,
                        fill_percent(set));
  return text;
}

DataReport data_report(const Dataset* train, const Dataset* eval, const TextCodec* text, int64_t limit) {
  DataReport report;
  report.json = Value::table();
  if (train) report.text += set_text("train", *train), report.json.set("train", set_value(*train));
  if (eval) report.text += set_text("eval", *eval), report.json.set("eval", set_value(*eval));
  Value shown = Value::list();
  const Dataset* source = train ? train : eval;
  for (size_t i = 0; source && i < source->samples.size() && static_cast<int64_t>(i) < limit; ++i) {
    const Sample& sample = source->samples[i];
    Value tokens = Value::list();
    report.text += fmt::format("\n{}: {} tokens, {} trained (marked *)\n", sample.origin, sample.ids.size(), trained_tokens(sample));
    for (size_t t = 0; t < sample.ids.size(); ++t) {
      const std::string spelling = text ? text->token(sample.ids[t]) : "";
      tokens.as_list().emplace_back(spelling);
      const bool is_trained = t > 0 && sample.labels[t] != kIgnore;
      report.text += fmt::format("{:6} {:8} {} {}\n", t, sample.ids[t], is_trained ? '*' : ' ', quoted(spelling));
    }
    Value one = Value::table();
    one.set("origin", sample.origin);
    one.set("ids", Value(sample.ids));
    one.set("labels", Value(sample.labels));
    one.set("tokens", std::move(tokens));
    if (!sample.media.empty()) {
      Value media = Value::list();
      for (const Medium& medium : sample.media) {
        Value row = Value::table();
        row.set("type", medium.kind), row.set("path", medium.file);
        media.as_list().push_back(std::move(row));
      }
      one.set("media", std::move(media));
    }
    shown.as_list().push_back(std::move(one));
  }
  report.json.set("samples", std::move(shown));
  return report;
}

}  // namespace tenon::host
