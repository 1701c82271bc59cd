#include "runner.h"

#include <fnmatch.h>

#include <chrono>
#include <map>
#include <memory>
#include <sstream>

#include "child.h"

namespace tenon::conformance {

namespace {

std::string group_of(const Planned& planned) { return planned.id.substr(0, planned.id.find('.')) + "@" + planned.subject; }

std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] == '\\' && i + 1 < text.size())
      out += text[++i] == 'n' ? '\n' : text[i];
    else
      out += text[i];
  return out;
}

// Why `planned` says nothing now: what it needs did not pass. "" when it may run.
std::string blocked_by(const Planned& planned, const std::map<std::string, Result>& done) {
  std::istringstream needs(planned.needs);
  for (std::string id; needs >> id;)
    for (const std::string& subject : {planned.subject, std::string()})
      if (const auto found = done.find(id + "@" + subject); found != done.end()) {
        const Result& result = found->second;
        if (result.outcome == Outcome::Skip && result.reason.starts_with("needs ")) return result.reason;
        if (result.outcome != Outcome::Pass && result.outcome != Outcome::Skip)
          return concat("needs ", id, ", which ended as ", outcome_name(result.outcome));
        break;
      }
  return "";
}

Result read_reply(const std::string& text) {
  const size_t tab = text.find('\t');
  const std::string word = text.substr(0, tab), reason = tab == std::string::npos ? "" : unescaped(text.substr(tab + 1));
  for (const Outcome outcome : {Outcome::Pass, Outcome::Fail, Outcome::Skip})
    if (word == outcome_name(outcome)) return {.outcome = outcome, .reason = reason};
  return {.outcome = Outcome::Fail, .reason = "the child process answered '" + text + "'"};
}

class Runner {
 public:
  explicit Runner(const RunnerOptions& options) : options_(options) {}

  Result run(const Planned& planned) {
    if (const std::string group = group_of(planned); group != group_) {
      group_ = group;
      child_.reset();
      apart_ = false;
      is_first_ = true;
    }
    Result result = ask(planned);
    // Whose fault was it? Alone, a check answers for itself.
    if (result.outcome == Outcome::Crash && !is_first_ && !apart_) {
      child_.reset();
      const Result alone = ask(planned);
      if (alone.outcome == Outcome::Crash || alone.outcome == Outcome::Timeout)
        result = alone;
      else
        result.reason += "\nalone in a process it does not crash: an earlier check of its group left something broken";
    }
    if (result.outcome == Outcome::Crash || result.outcome == Outcome::Timeout) apart_ = true;
    is_first_ = false;
    if (apart_) child_.reset();
    return result;
  }

 private:
  Result ask(const Planned& planned) {
    if (!child_) child_ = std::make_unique<Child>(options_.command);
    const Child::Reply reply = child_->ask(planned.id + "\t" + planned.subject, options_.timeout_seconds, options_.cancelled);
    switch (reply.ending) {
      case Child::Ending::Died: child_.reset(); return {.outcome = Outcome::Crash, .reason = reply.text};
      case Child::Ending::TimedOut:
        child_.reset();
        return {.outcome = Outcome::Timeout, .reason = concat("no answer within ", options_.timeout_seconds, " s")};
      case Child::Ending::Cancelled: child_.reset(); fail(ErrorCode::Interrupted, "interrupted");
      default: return read_reply(reply.text);
    }
  }

  const RunnerOptions& options_;
  std::string group_;
  std::unique_ptr<Child> child_;
  bool apart_ = false, is_first_ = true;
};

}  // namespace

std::vector<Result> run_checks(const std::vector<Planned>& plan, const RunnerOptions& options) {
  std::vector<Result> results;
  std::map<std::string, Result> done;
  Runner runner(options);
  for (const Planned& planned : plan) {
    Result result;
    if (const std::string blocked = blocked_by(planned, done); !blocked.empty()) {
      result = {.outcome = Outcome::Skip, .reason = blocked};
    } else {
      const auto start = std::chrono::steady_clock::now();
      result = runner.run(planned);
      result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    result.id = planned.id;
    result.subject = planned.subject;
    done[planned.id + "@" + planned.subject] = result;
    if (options.done) options.done(result);
    results.push_back(std::move(result));
  }
  return results;
}

std::vector<Planned> plan_checks(const std::vector<Provided>& provides, int level, const std::string& only) {
  std::vector<Planned> plan;
  auto matches = [&](const std::string& text) { return ::fnmatch(only.c_str(), text.c_str(), 0) == 0; };
  auto add = [&](const Check& check, const std::string& subject) {
    if (check.level > level) return;
    if (!only.empty() && !matches(check.id) && !matches(std::string(check.id) + "@" + subject)) return;
    plan.push_back({check.id, subject, check.needs});
  };
  // Subject by subject, so that a group's checks stand together.
  std::vector<std::string> subjects{""};
  for (const auto& row : provides) subjects.push_back(row.subject());
  for (const auto& subject : subjects)
    for (const Check& check : all_checks())
      for (const auto& candidate : subjects_of(check, provides))
        if (candidate == subject) add(check, subject);
  return plan;
}

}  // namespace tenon::conformance
