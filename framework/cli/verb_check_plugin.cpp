// `host check-plugin FILE`: the conformance kit (sdk/conformance) on one plugin file, and `host __check`, the child process that does the work.
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/check_subject.h"
#include "cli/heavy_verbs.h"
#include "cli/quantizer_report.h"
#include "conformance/results.h"
#include "plugins/manifest_reader.h"

namespace tenon::host {

namespace {

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string file_argument(const Args& args) {
  if (args.words.empty()) fail(ErrorCode::Usage, "host check-plugin needs a FILE: a plugin's shared library");
  return args.words[0];
}

int64_t level_of(const Args& args) {
  const int64_t level = args.get<int64_t>("level").value_or(2);
  if (level < 1 || level > 3) fail(ErrorCode::Usage, "--level is ", level, ", expected 1, 2 or 3");
  return level;
}

// The file's quantizers beside the baseline, on the recipe's model and evaluation data.
int report(const Args& args, const conformance::Subject& subject) {
  std::vector<std::string> candidates;
  for (const auto& row : subject.provides)
    if (row.kind == "quantizer") candidates.push_back(row.name);
  if (candidates.empty()) fail(ErrorCode::Usage, "--report compares quantizers, '", subject.file.string(), "' provides none");
  const Recipe recipe = read_recipe(*args.get<std::string>("report"), args.settings);
  // The one that the recipe names, where it names one.
  for (const auto& section : recipe.quantizers)
    if (std::find(candidates.begin(), candidates.end(), section.type) != candidates.end()) candidates = {section.type};
  SearchPath search = args.search;
  if (subject.file.is_absolute()) search.plugin_files.push_back(subject.file);  // else it is linked in
  Registry registry(discover_plugins(search));
  const QuantizerReport made =
      report_quantizer(recipe, registry, candidates, args.get<std::string>("baseline").value_or(conformance::kBaseline));
  print(args.json ? to_json(to_value(made), 2) + "\n" : to_text(made));
  return 0;
}

}  // namespace

int verb_check(const Args& args) {
  const conformance::Subject subject = check_subject(file_argument(args));
  conformance::serve(subject, static_cast<int>(level_of(args)), static_cast<uint64_t>(args.get<int64_t>("seed").value_or(0)),
                     args.on("reproduces"));
  return 0;
}

int verb_check_plugin(const Args& args) {
  if (args.on("list")) {
    print(args.json ? to_json(conformance::list_value(), 2) + "\n" : conformance::list_text());
    return 0;
  }
  const conformance::Subject subject = check_subject(file_argument(args));
  if (args.get<std::string>("report")) return report(args, subject);
  conformance::Summary summary;
  summary.file = subject.file.string();
  if (subject.manifest) {
    summary.id = field_text(subject.manifest->id, sizeof subject.manifest->id);
    summary.version = field_text(subject.manifest->version, sizeof subject.manifest->version);
  }
  const auto reproduced = args.get<int64_t>("reproduce");
  if (reproduced && (args.get<std::string>("only") || args.get<int64_t>("seed")))
    fail(ErrorCode::Usage, "--reproduce runs one random case: it goes without --only and --seed");
  summary.level = reproduced ? 3 : static_cast<int>(level_of(args));
  summary.seed = static_cast<uint64_t>(reproduced.value_or(args.get<int64_t>("seed").value_or(0)));
  const std::string only = reproduced ? "fuzz.*" : args.get<std::string>("only").value_or("");
  const auto plan = conformance::plan_checks(subject.provides, summary.level, only);
  if (plan.empty()) fail(ErrorCode::Usage, "--only '", only, "' matches no check of this plugin: host check-plugin --list shows their ids");
  conformance::RunnerOptions how;
  how.command = {
      "/proc/self/exe", "__check", summary.file, "--level", std::to_string(summary.level), "--seed", std::to_string(summary.seed)};
  if (reproduced) how.command.push_back("--reproduces");
  how.timeout_seconds = args.get<double>("timeout").value_or(60);
  how.cancelled = interrupted;
  Progress progress("checking", static_cast<int64_t>(plan.size()), false);
  how.done = [&](const conformance::Result& result) {
    progress.add(1);
    progress.note(result.id);
    if (!result.subject.empty()) log_debug(conformance::to_line(result));
  };
  summary.results = conformance::run_checks(plan, how);
  progress.finish();
  print(args.json ? to_json(conformance::to_value(summary), 2) + "\n" : conformance::to_text(summary));
  if (const auto junit = args.get<std::string>("junit")) write_file(*junit, conformance::to_junit(summary));
  return summary.all_well() ? 0 : static_cast<int>(ErrorCode::Plugin);
}

}  // namespace tenon::host
