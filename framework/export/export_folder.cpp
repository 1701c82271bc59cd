#include "export/export_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// Relative names of all files below `folder`, sorted.
std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->is_symlink() || !it->is_directory()) files.push_back(it->path().lexically_relative(folder).generic_string());
  if (error) fail(ErrorCode::Data, folder.string(), " cannot be listed: ", error.message());
  std::sort(files.begin(), files.end());
  return files;
}

// "" when everything in the folder was written by an export; else what was not.
std::string foreign_file(const fs::path& folder) {
  const auto files = files_below(folder);
  std::set<std::string> known = {kExportRecord};
  if (fs::exists(folder / kExportRecord)) {
    try {
      const Value record = read_json_file(folder / kExportRecord);
      for (const Value& name : record.at("files").as_list()) known.insert(name.as_string());
    } catch (const Error&) {
      return kExportRecord;
    }
  }
  for (const auto& name : files)
    if (!known.count(name)) return name;
  return {};
}

void sync(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

ExportFolder::ExportFolder(const fs::path& target, const fs::path& input) {
  if (target.empty()) fail(ErrorCode::Usage, "no folder to export to was given");
  std::error_code error;
  target_ = fs::weakly_canonical(fs::absolute(target), error);
  if (error) fail(ErrorCode::Data, target.string(), ": ", error.message());
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (!target_.has_filename()) fail(ErrorCode::Data, target.string(), " is no folder to export to");
  if (!input.empty() && fs::exists(target_) && fs::equivalent(target_, input, error) && !error)
    fail(ErrorCode::Data, target.string(), " is the checkpoint that is being read; export to another folder");
  if (fs::exists(target_)) {
    if (!fs::is_directory(target_)) fail(ErrorCode::Data, target.string(), " is a file; export to a folder");
    if (const std::string file = foreign_file(target_); !file.empty())
      fail(ErrorCode::Data, target.string(), " holds '", file, "', which no export wrote; export to a new or empty folder");
  }
  fs::create_directories(target_.parent_path(), error);
  if (error) fail(ErrorCode::Data, target_.parent_path().string(), " cannot be created: ", error.message());
  for (int attempt = 0; temporary_.empty(); ++attempt) {
    const fs::path candidate = target_.parent_path() / concat(".", target_.filename().string(), ".", ::getpid(), ".", attempt, ".part");
    if (fs::create_directory(candidate, error))
      temporary_ = candidate;
    else if (error || attempt > 1000)
      fail(ErrorCode::Data, candidate.string(), " cannot be created: ", error ? error.message() : "it exists");
  }
}

ExportFolder::~ExportFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

std::vector<std::string> ExportFolder::commit(Value record) {
  std::vector<std::string> files = files_below(temporary_);
  record.set("files", Value(files));
  write_file(temporary_ / kExportRecord, to_json(record, 2) + "\n");
  files.emplace_back(kExportRecord);
  for (const auto& name : files) sync(temporary_ / name);
  sync(temporary_);

  // An absent or empty target is replaced by a rename; an earlier export is exchanged, then removed.
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    if (errno != ENOTEMPTY && errno != EEXIST) fail(ErrorCode::Data, target_.string(), " cannot be put in place: ", std::strerror(errno));
    const std::string foreign = foreign_file(target_);
    if (!foreign.empty())
      fail(ErrorCode::Data, target_.string(), " got the file '", foreign, "' while the export ran; export to another folder");
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      // File systems without exchange: for a moment neither is there.
      const fs::path old = temporary_.string() + ".old";
      if (::rename(target_.c_str(), old.c_str()) != 0 || ::rename(temporary_.c_str(), target_.c_str()) != 0)
        fail(ErrorCode::Data, target_.string(), " cannot be replaced: ", std::strerror(errno));
      temporary_ = old;
    }
    std::error_code error;
    fs::remove_all(temporary_, error);
    if (error) log_warn(concat("the earlier export, now ", temporary_.string(), ", could not be removed: ", error.message()));
  }
  committed_ = true;
  sync(target_.parent_path());
  return files;
}

}  // namespace tenon::host
