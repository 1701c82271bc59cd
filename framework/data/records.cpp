#include "data/records.h"

#include <algorithm>
#include <cstring>

#include "base/json.h"

namespace tenon::host {

namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

RecordFile::RecordFile(const std::filesystem::path& file) : path_(file) {
  const std::string kind = file.extension().string();
  std::error_code problem;
  const auto bytes = std::filesystem::file_size(file, problem);
  if (problem) fail(ErrorCode::Data, file.string(), ": ", problem.message());
  if (kind == ".parquet" || kind == ".arrow")
    fail(ErrorCode::Data, file.string(), ": ", kind, " files are not served yet, write the records as JSON lines");
  if (kind != ".json" && kind != ".jsonl" && kind != ".ndjson")
    fail(ErrorCode::Data, file.string(), ": expected a .jsonl or .json file, found '", kind,
         "'; plain text becomes JSON lines of {\"text\": ...}");
  if (bytes == 0) fail(ErrorCode::Data, file.string(), ": the file is empty");
  map_ = std::make_unique<MappedFile>(file);
  std::string_view text(reinterpret_cast<const char*>(map_->bytes().data()), map_->bytes().size());
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const std::string_view content = trimmed(text);
  if (kind == ".json" && content.starts_with('['))
    find_elements(text);
  else
    find_lines(text);
  if (records_.empty()) fail(ErrorCode::Data, file.string(), ": the file holds no records");
}

void RecordFile::find_lines(std::string_view text) {
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = text.find('\n');
    const std::string_view content = trimmed(text.substr(0, end));
    if (!content.empty()) records_.push_back({content, line});
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
}

// Cuts the outer array at its own commas; strings and depth are all that must be understood for that. What stands between is parsed later.
void RecordFile::find_elements(std::string_view text) {
  size_t i = 0, line = 1, depth = 0;
  size_t begin = std::string_view::npos, begin_line = 0;
  auto close_element = [&](size_t end) {
    if (begin == std::string_view::npos) fail(ErrorCode::Data, path_.string(), ":", line, ": expected a record, found '", text[end], "'");
    records_.push_back({trimmed(text.substr(begin, end - begin)), begin_line});
    begin = std::string_view::npos;
  };
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (is_space(c)) continue;
    if (depth == 1 && begin == std::string_view::npos && c != ',' && c != ']') begin = i, begin_line = line;
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i)
        if (text[i] == '\\')
          ++i;
        else if (text[i] == '\n')
          ++line;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ',' && depth == 1) {
      close_element(i);
    } else if (c == ']' || c == '}') {
      if (depth == 1) {
        if (c == '}') fail(ErrorCode::Data, path_.string(), ":", line, ": expected ']', found '}'");
        if (!records_.empty() || begin != std::string_view::npos) close_element(i);
        break;
      }
      --depth;
    }
  }
  if (i >= text.size()) fail(ErrorCode::Data, path_.string(), ":", line, ": the array does not end: the file is cut off");
  if (const std::string_view rest = trimmed(text.substr(i + 1)); !rest.empty())
    fail(ErrorCode::Data, path_.string(), ":", line, ": expected the end of the file behind the array, found '", rest.substr(0, 20), "'");
}

Value RecordFile::parse(size_t i) const {
  const Record& record = records_[i];
  const std::string name = path_.string();
  Value value;
  try {
    value = parse_json(record.text, name);
  } catch (const Error& error) {
    // The parser counts lines from the record's first one.
    std::string_view text = error.message();
    if (!text.starts_with(name + ":")) throw;
    text.remove_prefix(name.size() + 1);
    const size_t colon = text.find(':');
    const std::string_view number = text.substr(0, colon);
    if (colon == std::string_view::npos || number.empty() || number.find_first_not_of("0123456789") != std::string_view::npos)
      fail(error.code(), name, ":", record.line, ":", text);
    fail(error.code(), name, ":", record.line + std::stoul(std::string(number)) - 1, text.substr(colon));
  }
  if (!value.is_table()) fail(ErrorCode::Data, name, ":", record.line, ": expected a record {...}, found a ", value.type_name());
  return value;
}

std::string RecordFile::origin(size_t i) const { return path_.filename().string() + ":" + std::to_string(records_[i].line); }

}  // namespace tenon::host
