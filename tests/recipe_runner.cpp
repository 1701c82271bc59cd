// A test is a file: test_recipes FILE.toml runs `host` on a recipe as its header says.
//
//   #! plan --json              run this verb on the recipe, with these flags (again: another run); {TMP} is a folder of this test
//   #! error 3: did you mean    this run ends with status 3 and says so on stderr (a regular expression; several: all of them)
//   #! expect "fits": true      this run ends with status 0 and says so on stdout or stderr
//   #! reject regex             neither stdout nor stderr says so
//   #! skip-unless {SHARED}/x   where that is absent the test says SKIP
//
// {SHARED}, {SOURCE} and {TMP} are replaced in the whole file; the recipe lies in {TMP}, header included, so that lines count as written.
#include <cstdio>
#include <regex>
#include <stdexcept>
#include <vector>

#include "support/run_host.h"

namespace fs = std::filesystem;

namespace {

struct Run {
  std::vector<std::string> arguments;
  int status = 0;
  std::vector<std::string> errors, expected, rejected;
};

struct Test {
  std::vector<Run> runs;
  std::vector<std::string> needed;  // paths
};

std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

// Words, with "..." and '...' kept together.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  bool in_word = false;
  char quote = 0;
  for (const char c : line) {
    if (quote ? c == quote : c == '"' || c == '\'') {
      quote = quote ? 0 : c;
      if (!in_word) words.emplace_back();
      in_word = true;
    } else if (!quote && c == ' ') {
      in_word = false;
    } else {
      if (!in_word) words.emplace_back();
      in_word = true;
      words.back() += c;
    }
  }
  return words;
}

bool strip(std::string& line, const std::string& start) {
  if (line.rfind(start, 0) != 0) return false;
  line.erase(0, start.size());
  return true;
}

Test read_test(const std::string& text) {
  Test test;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (!strip(line, "#! ")) continue;
    if (strip(line, "skip-unless ")) {
      test.needed.push_back(line);
    } else if (strip(line, "error ")) {
      const size_t colon = line.find(": ");
      if (test.runs.empty() || colon == std::string::npos)
        throw std::runtime_error("'#! error CODE: REGEX' belongs behind a verb: " + line);
      test.runs.back().status = std::stoi(line.substr(0, colon));
      test.runs.back().errors.push_back(line.substr(colon + 2));
    } else if (strip(line, "expect ")) {
      test.runs.at(test.runs.size() - 1).expected.push_back(line);
    } else if (strip(line, "reject ")) {
      test.runs.at(test.runs.size() - 1).rejected.push_back(line);
    } else {
      test.runs.push_back({words_of(line), 0, {}, {}, {}});
    }
  }
  if (test.runs.empty()) throw std::runtime_error("the file has no line '#! verb'");
  return test;
}

bool says(const std::string& text, const std::string& pattern) { return std::regex_search(text, std::regex(pattern)); }

// What is wrong, a line each.
std::string check(const Run& run, const fs::path& recipe) {
  std::vector<std::string> arguments = run.arguments;
  arguments.insert(arguments.begin() + 1, recipe.string());
  const auto [status, out, err] = tenon::testing::run_host(arguments);
  std::string wrong;
  if (status != run.status) wrong += "  ended with " + std::to_string(status) + ", expected " + std::to_string(run.status) + "\n";
  for (const auto& pattern : run.errors)
    if (!says(err, pattern)) wrong += "  stderr does not say: " + pattern + "\n";
  for (const auto& pattern : run.expected)
    if (!says(out + err, pattern)) wrong += "  does not say: " + pattern + "\n";
  for (const auto& pattern : run.rejected)
    if (says(out + err, pattern)) wrong += "  says: " + pattern + "\n";
  if (wrong.empty()) return "";
  std::string command = "host";
  for (const auto& argument : arguments) command += " " + argument;
  return command + "\n" + wrong + "--- stdout\n" + out.substr(0, 4000) + "--- stderr\n" + err.substr(0, 4000);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw std::runtime_error("usage: test_recipes FILE.toml");
  const fs::path file = argv[1];
  const tenon::testing::TempDir folder;
  std::string text = replace_all(tenon::testing::read_text(file), "{TMP}", folder.path().string());
  text = replace_all(text, "{SHARED}", fs::weakly_canonical(tenon::testing::shared_dir()).string());
  text = replace_all(text, "{SOURCE}", tenon::testing::source_dir().string());
  const Test test = read_test(text);
  for (const auto& path : test.needed)
    if (!fs::exists(path)) {
      std::printf("SKIP %s: there is no %s\n", file.filename().c_str(), path.c_str());
      return 0;
    }
  const fs::path recipe = folder.write(file.filename(), text);
  for (const auto& run : test.runs)
    if (const std::string wrong = check(run, recipe); !wrong.empty()) {
      std::printf("%s: %s\n", file.c_str(), wrong.c_str());
      return 1;
    }
  return 0;
} catch (const std::exception& error) {
  std::printf("%s\n", error.what());
  return 1;
}
