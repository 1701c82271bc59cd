#pragma once
// What `host check-plugin` is made of: a check has a stable id, a sentence on what it protects from, and a function that looks at one plugin.
// The kit sees the SDK alone: what only the host knows (may this file be loaded? is this option valid?) it is told through Subject.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tenon/plugin.h"

namespace tenon::conformance {

enum class Outcome { Pass, Fail, Skip, Crash, Timeout };
const char* outcome_name(Outcome outcome);  // "pass", "fail", "skip", "crash", "timeout"

// A row of the manifest's provides.
struct Provided {
  std::string kind, name;
  std::vector<std::pair<std::string, std::string>> attributes;
  std::string subject() const { return kind + ":" + name; }
  std::string attribute(const std::string& key) const {
    for (const auto& [name_, value] : attributes)
      if (name_ == key) return value;
    return "";
  }
};

// One plugin file and what the host says about it. The functions are called in the child process alone, but for `mismatches`.
struct Subject {
  std::filesystem::path file;
  std::optional<Manifest> manifest;
  std::vector<std::string> manifest_problems;  // why it cannot be read
  std::vector<Provided> provides;
  std::vector<std::string> provides_problems;  // rows that are not kind:name
  std::string place_problem;                   // why nothing is loaded from where it lies, or ""
  std::vector<std::string> reserved;           // its names that belong to bundled plugins
  // What keeps a manifest from fitting this host.
  std::function<std::vector<std::string>(const Manifest&)> mismatches;
  // Maps the library; its registration, to be run any number of times. Error(Plugin).
  std::function<std::function<void(Registrar*)>()> open;
  // Asks the host's registry for a provider, as a recipe does. Error(Plugin).
  std::function<void(const std::string& kind, const std::string& name)> ask;
  // What the library's tenon_plugin_examples() gives (tenon/examples.h), null when it has none.
  std::function<Value()> examples;
  // The host's judgement of values in a recipe: one line a problem.
  std::function<std::vector<std::string>(const OptionTable&, const Value& values, const std::string& owner)> option_problems;
  // Runs a check; a crash inside names the plugin, the check and its subject.
  std::function<void(const std::string& check, const std::string& subject, const std::function<void()>& body)> guarded;
  // Devices to compute on, "cpu" first.
  std::function<std::vector<at::Device>()> devices;
  // The bundled architectures, for one that holds another. Null: there are none.
  std::function<Backbones&()> backbones;
};

// What leaves a check that does not pass. Any other exception fails it too.
struct Failed {
  std::string text;
};
struct Skipped {
  std::string reason;
};
template <class... Parts>
[[noreturn]] void failed(const Parts&... parts) {
  throw Failed{concat(parts...)};
}
template <class... Parts>
[[noreturn]] void skipped(const Parts&... parts) {
  throw Skipped{concat(parts...)};
}
template <class... Parts>
void expect(bool condition, const Parts&... parts) {
  if (!condition) failed(parts...);
}

// What a check is given. Lives as long as its child process, so that a library is opened once.
class Context {
 public:
  Context(const Subject& subject, int level, uint64_t seed, bool reproduces = false);
  ~Context();

  const Subject& subject() const { return subject_; }
  int level() const { return level_; }
  // Of everything drawn at random: --seed, mixed with the check's id and subject.
  uint64_t seed() const { return seed_; }
  uint64_t base_seed() const { return base_seed_; }
  // --reproduce: base_seed() is that of one random case.
  bool reproduces() const { return reproduces_; }
  // The manifest row that the check is about; of checks on the whole file an empty one.
  const Provided& provided() const { return provided_; }

  const std::function<void(Registrar*)>& entry();  // opens the library
  Registrar& registrar();                          // and registers, once
  // The provider of provided(), of the kind that `list` holds.
  template <class Interface>
  const Provider<Interface>& provider(std::vector<Provider<Interface>> Registrar::*list) {
    for (const auto& provider : registrar().*list)
      if (provider.name == provided_.name) return provider;
    failed("the registration holds no ", provided_.subject());
  }
  // The plugin's own examples for provided(); empty when it gives none.
  std::vector<Value> examples();
  // The process as it was before the library was opened.
  const struct GlobalState& before() const { return *before_; }

  void turn_to(const std::string& id, const std::string& subject);

 private:
  const Subject& subject_;
  int level_;
  uint64_t base_seed_, seed_;
  bool reproduces_;
  Provided provided_;
  std::unique_ptr<struct GlobalState> before_;
  std::function<void(Registrar*)> entry_;
  std::unique_ptr<Registrar> registrar_;
};

struct Check {
  const char* id;         // "quantizer.error_bound": stays once released
  int level;              // the lowest --level that runs it
  const char* needs;      // the check without whose pass this one says nothing, or ""
  const char* protects;   // one sentence
  void (*run)(Context&);  // returns when the plugin passes
  std::string group() const;
};

// All, in the order in which they run.
const std::vector<Check>& all_checks();
const Check* find_check(const std::string& id);

// Parts of that table, each in the file of its name.
std::vector<Check> file_checks();
std::vector<Check> load_checks();
std::vector<Check> option_checks();
std::vector<Check> quantizer_checks();
std::vector<Check> quantizer_product_checks();
std::vector<Check> quantizer_calibration_checks();
std::vector<Check> adapter_checks();
std::vector<Check> architecture_checks();
std::vector<Check> architecture_session_checks();
std::vector<Check> patch_checks();
std::vector<Check> objective_checks();
std::vector<Check> text_checks();
std::vector<Check> fuzz_checks();

// The subjects of a check in this file: "" for the whole file, else "kind:name".
std::vector<std::string> subjects_of(const Check& check, const std::vector<Provided>& provides);

// The quantizer beside which `--report` shows a new one.
inline constexpr const char* kBaseline = "nf4";

}  // namespace tenon::conformance
