#include "checkpoint/misfit_report.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "checkpoint/printable.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

bool is_number(const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos; }

// Pattern and, joined by '.', the numbers it stands for.
std::pair<std::string, std::string> split_numbers(const std::string& name) {
  std::vector<std::string> parts = split(name, '.'), numbers;
  for (auto& part : parts)
    if (is_number(part)) {
      numbers.push_back(part);
      part = "*";
    }
  return {join(parts, "."), join(numbers, ".")};
}

}  // namespace

std::string name_pattern(const std::string& name) { return split_numbers(name).first; }

std::string grouped(const std::vector<std::string>& names, const std::map<std::string, std::string>& detail, size_t limit) {
  struct Group {
    std::string pattern, detail, only;
    std::vector<std::string> numbers;
  };
  std::vector<Group> groups;
  std::map<std::pair<std::string, std::string>, size_t> index;
  for (const auto& name : names) {
    auto [pattern, numbers] = split_numbers(name);
    auto found = detail.find(name);
    std::string text = found == detail.end() ? std::string() : found->second;
    auto [it, is_new] = index.try_emplace({pattern, text}, groups.size());
    if (is_new) groups.push_back({std::move(pattern), std::move(text), name, {}});
    groups[it->second].numbers.push_back(std::move(numbers));
  }
  std::string out;
  size_t shown = 0;
  for (const auto& group : groups) {
    if (shown == limit) {
      out += concat("\n    and ", groups.size() - limit, " more groups");
      break;
    }
    ++shown;
    const size_t times = group.numbers.size();
    out += "\n    " + in_quotes(times == 1 ? group.only : group.pattern);
    if (times > 1) {
      // "0, 1, 2, ..., 31"
      std::string list = group.numbers[0] + ", " + group.numbers[1];
      if (times > 2) list += (times > 4 ? ", ..., " : times > 3 ? ", " + group.numbers[2] + ", " : ", ") + group.numbers.back();
      out += concat(" (", times, " times: ", list, ")");
    }
    out += group.detail;
  }
  return out;
}

std::string prefix_hint(const std::vector<std::string>& missing, const std::vector<std::string>& surplus) {
  if (missing.empty() || surplus.empty()) return {};
  const std::set<std::string> in_file(surplus.begin(), surplus.end());
  // A prefix is guessed from any pair where one name ends with the other, then counted over all names. A few names to guess from are enough.
  std::map<std::string, size_t> lacking, extra;
  for (size_t i = 0; i < std::min<size_t>(missing.size(), 8); ++i)
    for (size_t j = 0; j < std::min<size_t>(surplus.size(), 2000); ++j) {
      const std::string &want = missing[i], &have = surplus[j];
      if (want.size() > have.size() && want.ends_with("." + have)) lacking[want.substr(0, want.size() - have.size())] = 0;
      if (have.size() > want.size() && have.ends_with("." + want)) extra[have.substr(0, have.size() - want.size())] = 0;
    }
  std::string best;
  size_t best_count = 0;
  bool best_lacks = false;
  auto consider = [&](const std::string& prefix, bool lacks) {
    size_t count = 0;
    for (const auto& name : missing)
      if (lacks ? name.starts_with(prefix) && in_file.count(name.substr(prefix.size())) : in_file.count(prefix + name)) ++count;
    if (count > best_count) best = prefix, best_count = count, best_lacks = lacks;
  };
  for (const auto& [prefix, unused] : lacking) consider(prefix, true);
  for (const auto& [prefix, unused] : extra) consider(prefix, false);
  if (best_count * 2 < missing.size()) return {};
  if (best_lacks)
    return concat("the names in the file lack the prefix ", in_quotes(best), " (", best_count, " of ", missing.size(),
                  " missing tensors are there without it): it was saved from the model's body alone; add the prefix, or save it from the "
                  "whole model");
  return concat(
      "the names in the file carry the extra prefix ", in_quotes(best), " (", best_count, " of ", missing.size(),
      " missing tensors are there with it): it was saved from inside a wrapper; save it from the model itself, or strip the prefix");
}

}  // namespace tenon::host
