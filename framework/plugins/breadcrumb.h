#pragma once
// Every call into a plugin goes through here: its errors carry the plugin's name, and a crash tells whose it was.
#include <functional>
#include <string>

namespace tenon::host {

// Errors leave with "plugin <id>" in front, foreign exceptions become Error(Plugin); while it runs the crash breadcrumb of this
// thread names the plugin, the call and its subject (a slot's path, a file).
void call_plugin(const std::string& id, const char* call, const std::string& subject, const std::function<void()>& body);

// Callers know a provider's name ("mine"); a loaded plugin says here what is behind it. Both texts live on.
void note_provider(const std::string& name, const std::string& id, const std::string& file);

// The id of the plugin whose call runs on this thread, the innermost; "" outside any.
std::string current_plugin();

// From now on a fatal signal prints the breadcrumb of its thread to stderr before the process dies of it.
void install_crash_handler();

}  // namespace tenon::host
