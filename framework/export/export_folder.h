#pragma once
// The folder that an export writes: complete under its name, or not there at all.
#include <filesystem>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon::host {

// The record that an export leaves in its folder; it also tells a later export that the folder may be replaced.
inline constexpr const char* kExportRecord = "tenon_export.json";

class ExportFolder {
 public:
  // Error(Data) when `target` is the folder `input` that is being read, or holds anything that no earlier export wrote.
  explicit ExportFolder(const std::filesystem::path& target, const std::filesystem::path& input = {});
  ExportFolder(const ExportFolder&) = delete;
  ExportFolder& operator=(const ExportFolder&) = delete;
  ~ExportFolder();  // without commit() nothing remains

  // Where to write: a hidden folder beside the target.
  const std::filesystem::path& path() const { return temporary_; }
  const std::filesystem::path& target() const { return target_; }

  // Adds the record (with the list of files), then puts the folder in place of an earlier export. Returns the names of all files.
  std::vector<std::string> commit(Value record);

 private:
  std::filesystem::path target_, temporary_;
  bool committed_ = false;
};

}  // namespace tenon::host
