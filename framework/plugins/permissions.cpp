#include "plugins/permissions.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "tenon/error.h"

namespace tenon::host {

namespace {

std::string user_name(uid_t uid) {
  const passwd* entry = ::getpwuid(uid);
  return entry ? entry->pw_name : "user " + std::to_string(uid);
}

// Debian's way of a group for each user, with umask 002: its members are the user alone.
bool is_private_group(gid_t gid) {
  if (::geteuid() == 0 || gid != ::getegid()) return false;
  const group* entry = ::getgrgid(gid);
  const std::string name = entry ? entry->gr_name : "";
  return entry && name == user_name(::geteuid()) && (!entry->gr_mem[0] || (name == entry->gr_mem[0] && !entry->gr_mem[1]));
}

std::optional<uid_t> owner_of_host() {
  struct stat info {};
  if (::stat("/proc/self/exe", &info) != 0) return std::nullopt;
  return info.st_uid;
}

std::string problem_of(const std::filesystem::path& path, Trust trust) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return concat("cannot look at '", path.string(), "': ", std::strerror(errno));
  const bool is_folder = S_ISDIR(info.st_mode);
  const char* what = is_folder ? "its folder '" : "'";
  if (!is_folder && !S_ISREG(info.st_mode)) return concat("'", path.string(), "' is not a regular file");
  const bool owner_is_fine = info.st_uid == 0 || info.st_uid == ::geteuid() || (trust == Trust::Bundled && owner_of_host() == info.st_uid);
  if (!owner_is_fine)
    return concat(what, path.string(), "' belongs to ", user_name(info.st_uid),
                  ", not to you or root: copy the plugin to a place of your own");
  // In a sticky folder such as /tmp others can add files, not replace ours.
  if (is_folder && (info.st_mode & S_ISVTX)) return "";
  if (info.st_mode & S_IWOTH) return concat(what, path.string(), "' can be written to by everyone: chmod o-w '", path.string(), "'");
  if ((info.st_mode & S_IWGRP) && !(trust == Trust::Bundled && is_private_group(info.st_gid)))
    return concat(what, path.string(), "' can be written to by its group: chmod g-w '", path.string(), "'");
  return "";
}

}  // namespace

std::string permission_problem(const std::filesystem::path& path, Trust trust) {
  std::error_code error;
  std::filesystem::path at = std::filesystem::canonical(path, error);
  if (error) return concat("cannot look at '", path.string(), "': ", error.message());
  while (true) {
    if (std::string problem = problem_of(at, trust); !problem.empty()) return problem;
    if (!at.has_relative_path()) return "";
    at = at.parent_path();
  }
}

}  // namespace tenon::host
