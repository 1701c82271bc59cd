#pragma once
// Files of records: JSON lines, or one JSON array. Only the places of the records are found here; each is parsed when asked for.
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tenon/value.h"

namespace tenon::host {

// Thread-safe once constructed.
class RecordFile {
 public:
  // Error(Data) when the file is absent, empty or of another kind.
  explicit RecordFile(const std::filesystem::path& file);

  size_t size() const { return records_.size(); }
  // The record, always a table. Error(Data) as "file:line:column: what is wrong".
  Value parse(size_t i) const;
  std::string origin(size_t i) const;  // "train.jsonl:12"
  const std::filesystem::path& path() const { return path_; }

 private:
  struct Record {
    std::string_view text;
    size_t line = 0;
  };
  void find_lines(std::string_view text);
  void find_elements(std::string_view text);

  std::filesystem::path path_;
  std::unique_ptr<MappedFile> map_;
  std::vector<Record> records_;
};

}  // namespace tenon::host
