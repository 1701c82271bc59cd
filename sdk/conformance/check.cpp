#include "check.h"

#include <algorithm>

#include "global_state.h"

namespace tenon::conformance {

namespace {
// FNV-1a.
uint64_t mixed(uint64_t seed, const std::string& text) {
  uint64_t h = 1469598103934665603ull ^ (seed * 0x9e3779b97f4a7c15ull);
  for (const unsigned char c : text) h = (h ^ c) * 1099511628211ull;
  return h;
}
}  // namespace

const char* outcome_name(Outcome outcome) {
  static constexpr const char* names[] = {"pass", "fail", "skip", "crash", "timeout"};
  return names[static_cast<int>(outcome)];
}

Context::Context(const Subject& subject, int level, uint64_t seed, bool reproduces)
    : subject_(subject),
      level_(level),
      base_seed_(seed),
      seed_(seed),
      reproduces_(reproduces),
      before_(std::make_unique<GlobalState>(read_global_state())) {}

Context::~Context() = default;

const std::function<void(Registrar*)>& Context::entry() {
  if (!entry_) entry_ = subject_.open();
  return entry_;
}

Registrar& Context::registrar() {
  if (!registrar_) {
    auto made = std::make_unique<Registrar>();
    entry()(made.get());
    registrar_ = std::move(made);
  }
  return *registrar_;
}

std::vector<Value> Context::examples() {
  entry();
  const Value all = subject_.examples ? subject_.examples() : Value();
  const Value* mine = all.find(provided_.subject());
  if (!mine) return {};
  return mine->is_list() ? mine->as_list() : std::vector<Value>{*mine};
}

void Context::turn_to(const std::string& id, const std::string& subject) {
  seed_ = mixed(base_seed_, id + " " + subject);
  provided_ = {};
  for (const auto& row : subject_.provides)
    if (row.subject() == subject) provided_ = row;
}

std::string Check::group() const { return std::string(id).substr(0, std::string(id).find('.')); }

const std::vector<Check>& all_checks() {
  static const auto* const all = [] {
    auto* checks = new std::vector<Check>;
    for (auto* part :
         {file_checks, load_checks, option_checks, quantizer_checks, quantizer_product_checks, quantizer_calibration_checks, adapter_checks,
          architecture_checks, architecture_session_checks, patch_checks, objective_checks, text_checks, fuzz_checks})
      for (const Check& check : part()) checks->push_back(check);
    return checks;
  }();
  return *all;
}

const Check* find_check(const std::string& id) {
  for (const Check& check : all_checks())
    if (id == check.id) return &check;
  return nullptr;
}

std::vector<std::string> subjects_of(const Check& check, const std::vector<Provided>& provides) {
  const std::string group = check.group();
  if (group == "file" || group == "load") return {""};
  std::vector<std::string> subjects;
  for (const auto& row : provides) {
    const bool any = group == "options" || std::string(check.id) == "fuzz.options";
    const std::string kind = group == "fuzz" ? std::string(check.id).substr(5) : group;
    if (any || row.kind == kind) subjects.push_back(row.subject());
  }
  return subjects;
}

}  // namespace tenon::conformance
