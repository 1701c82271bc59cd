// The pipeline inside a program of one's own, without the command line: embed RECIPE PROMPT [PLUGIN.so ...]
#include <tenon/session.h>
#include <cstdio>

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::fprintf(stderr, "usage: embed RECIPE PROMPT [PLUGIN.so ...]\n");
    return 2;
  }
  tenon::SessionOptions options;
  options.plugin_files.assign(argv + 3, argv + argc);
  options.on_log = [](int level, std::string_view line) {
    if (level < 2) std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  };
  tenon::Session session(argv[1], options);

  const tenon::Value plan = session.plan();
  std::fprintf(stderr, "weights: %lld bytes\n", static_cast<long long>(plan.at("totals").at("weights").as_int()));

  session.load();
  session.generate({argv[2]}, [](const tenon::TextPiece& piece) {
    std::fwrite(piece.text.data(), 1, piece.text.size(), stdout);
    std::fflush(stdout);
  });
  std::puts("");
} catch (const tenon::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return static_cast<int>(error.code());
}
