#pragma once
// Who could have put a plugin where it lies. A plugin is code with the user's rights: none is taken from a place that others can write to.
#include <filesystem>
#include <string>

namespace tenon::host {

enum class Trust {
  Strict,   // files and every folder above: owned by root or the user, writable by neither group nor world (but for sticky folders)
  Bundled,  // beside the host itself: its owner, and the user's private group, could as well change the host
};

// Why `path` (which exists) must not be used, with the remedy; "" when it may be. Links are followed first.
std::string permission_problem(const std::filesystem::path& path, Trust trust);

}  // namespace tenon::host
