// A small coverage-guided fuzzing engine for GCC, which has no libFuzzer: it takes the same harness function and the
// same two flags (-max_total_time=SECONDS, -seed=N), then folders of seeds, or single files to replay.
// Inputs that reach a new branch, or one more often than before, join the corpus in memory. The input at hand always
// lies in a mapped file `<program>.input`, so that it is there after a crash; a clean end removes it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kBranches = 1 << 16;
constexpr std::size_t kMaxInput = 8192;    // headers and recipes: what matters comes early
constexpr unsigned kSecondsPerInput = 20;  // a hang is a find

std::array<std::uint8_t, kBranches> hits;  // of this input, saturating
std::array<std::uint8_t, kBranches> seen;  // highest bucket of hits by any input
std::array<std::uint64_t, 256> compared;   // operands of the latest comparisons: magic numbers and lengths
std::size_t compared_count = 0;

void note_comparison(std::uint64_t a, std::uint64_t b) {
  if (a == b) return;
  compared[compared_count++ % compared.size()] = a;
  compared[compared_count++ % compared.size()] = b;
}

// 0, 1, 2, 3-4, 5-8, ...: a loop that runs once more is not news, twice as often is.
std::uint8_t bucket(std::uint8_t count) {
  std::uint8_t result = 0;
  for (; count; count >>= 1) ++result;
  return result;
}

bool found_something_new() {
  bool news = false;
  for (std::size_t i = 0; i < kBranches; ++i) {
    if (hits[i] && bucket(hits[i]) > seen[i]) {
      seen[i] = bucket(hits[i]);
      news = true;
    }
  }
  return news;
}

class CurrentInput {
 public:
  explicit CurrentInput(const std::string& path) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd_ < 0 || ::ftruncate(fd_, 0) != 0) {
      std::perror(path.c_str());
      std::exit(2);
    }
  }
  ~CurrentInput() {
    ::close(fd_);
    std::filesystem::remove(path_);
  }
  CurrentInput(const CurrentInput&) = delete;
  CurrentInput& operator=(const CurrentInput&) = delete;

  void hold(const Bytes& input) {
    const bool ok = ::pwrite(fd_, input.data(), input.size(), 0) == static_cast<ssize_t>(input.size());
    if (!ok || ::ftruncate(fd_, static_cast<off_t>(input.size())) != 0) std::abort();
  }

 private:
  std::string path_;
  int fd_ = -1;
};

class Mutator {
 public:
  Mutator(std::uint64_t seed, const std::vector<Bytes>& corpus) : random_(seed), corpus_(corpus) {}

  Bytes next() {
    Bytes input = corpus_[below(corpus_.size())];
    for (std::size_t steps = 1 + below(6); steps > 0; --steps) step(input);
    if (input.size() > kMaxInput) input.resize(kMaxInput);
    return input;
  }

 private:
  std::size_t below(std::size_t n) { return n ? random_() % n : 0; }

  void step(Bytes& input) {
    const std::size_t at = below(input.size() + 1);
    switch (below(8)) {
      case 0:
        if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        if (at < input.size()) input[at] = static_cast<std::uint8_t>(random_());
        break;
      case 2: input.insert(input.begin() + at, static_cast<std::uint8_t>(random_())); break;
      case 3: input.erase(input.begin() + at, input.begin() + at + below(std::min<std::size_t>(input.size() - at, 32) + 1)); break;
      case 4: write_number(input, at, interesting()); break;
      case 5: write_number(input, at, compared[below(compared.size())] + below(3) - 1); break;
      case 6: splice(input, at); break;
      default: repeat(input, at);
    }
  }

  std::uint64_t interesting() {
    constexpr std::uint64_t kNumbers[] = {0,
                                          1,
                                          7,
                                          8,
                                          127,
                                          128,
                                          255,
                                          256,
                                          4095,
                                          65535,
                                          1u << 20,
                                          0x7fffffff,
                                          0x80000000,
                                          0xffffffff,
                                          0x7fffffffffffffff,
                                          0x8000000000000000,
                                          0xfffffffffffffff8,
                                          0xffffffffffffffff};
    return kNumbers[below(std::size(kNumbers))];
  }

  void write_number(Bytes& input, std::size_t at, std::uint64_t number) {
    std::uint8_t bytes[24];
    std::size_t size = std::size_t{1} << below(4);
    if (below(3) == 0) {  // as text, for JSON and TOML
      size = static_cast<std::size_t>(
          std::snprintf(reinterpret_cast<char*>(bytes), sizeof bytes, "%llu", static_cast<unsigned long long>(number)));
    } else {
      std::memcpy(bytes, &number, sizeof number);
    }
    const bool overwrite = below(2) == 0;
    if (overwrite) {
      if (input.size() < at + size) input.resize(at + size);
      std::copy_n(bytes, size, input.begin() + at);
    } else {
      input.insert(input.begin() + at, bytes, bytes + size);
    }
  }

  void splice(Bytes& input, std::size_t at) {
    const Bytes& other = corpus_[below(corpus_.size())];
    const std::size_t from = below(other.size() + 1);
    const std::size_t size = below(std::min<std::size_t>(other.size() - from, 256) + 1);
    input.insert(input.begin() + at, other.begin() + from, other.begin() + from + size);
  }

  // Depth and length: brackets and keys many times over.
  void repeat(Bytes& input, std::size_t at) {
    const std::size_t size = below(std::min<std::size_t>(input.size() - at, 16) + 1);
    const Bytes piece(input.begin() + at, input.begin() + at + size);
    for (std::size_t times = below(64); times > 0 && input.size() < kMaxInput; --times)
      input.insert(input.begin() + at, piece.begin(), piece.end());
  }

  std::mt19937_64 random_;
  const std::vector<Bytes>& corpus_;
};

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void run(CurrentInput& current, const Bytes& input) {
  current.hold(input);
  hits.fill(0);
  ::alarm(kSecondsPerInput);
  // A copy of exactly its size, so that AddressSanitizer sees a read beyond the end.
  const Bytes exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  ::alarm(0);
}

void too_slow(int) {
  std::fputs("an input takes too long\n", stderr);
  std::abort();
}

}  // namespace

// Called by instrumented code: at each branch, and before each comparison.
extern "C" {
void __sanitizer_cov_trace_pc() {
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) - reinterpret_cast<std::uintptr_t>(&too_slow);
  std::uint8_t& count = hits[(here ^ here >> 16) % kBranches];
  if (count < 255) ++count;
}
void __sanitizer_cov_trace_cmp1(std::uint8_t a, std::uint8_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_cmp2(std::uint16_t a, std::uint16_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_cmp4(std::uint32_t a, std::uint32_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_cmp8(std::uint64_t a, std::uint64_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_const_cmp1(std::uint8_t a, std::uint8_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_const_cmp2(std::uint16_t a, std::uint16_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_const_cmp4(std::uint32_t a, std::uint32_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_const_cmp8(std::uint64_t a, std::uint64_t b) { note_comparison(a, b); }
void __sanitizer_cov_trace_cmpf(float, float) {}
void __sanitizer_cov_trace_cmpd(double, double) {}
void __sanitizer_cov_trace_switch(std::uint64_t value, std::uint64_t* cases) {
  for (std::uint64_t i = 0; i < cases[0]; ++i) note_comparison(value, cases[2 + i]);
}
}

int main(int argc, char** argv) {
  double seconds = 60;
  std::uint64_t seed = std::random_device{}();
  std::vector<Bytes> corpus;
  CurrentInput current(std::string(argv[0]) + ".input");
  std::signal(SIGALRM, too_slow);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("-max_total_time=")) {
      seconds = std::stod(argument.substr(16));
    } else if (argument.starts_with("-seed=")) {
      seed = std::stoull(argument.substr(6));
    } else if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::directory_iterator(argument))
        if (entry.is_regular_file()) corpus.push_back(read(entry.path()));
    } else {
      run(current, read(argument));
      std::printf("%s: no find\n", argument.c_str());
      return 0;
    }
  }
  const std::size_t seeds = corpus.size();
  std::printf("seed %llu, %zu inputs to start from\n", static_cast<unsigned long long>(seed), seeds);
  std::fflush(stdout);
  corpus.emplace_back();
  for (const Bytes& input : corpus) {
    run(current, input);
    found_something_new();
  }
  Mutator mutator(seed, corpus);
  std::size_t runs = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    Bytes input = mutator.next();
    run(current, input);
    if (found_something_new()) corpus.push_back(std::move(input));
  }
  const auto branches = static_cast<std::size_t>(std::count_if(seen.begin(), seen.end(), [](std::uint8_t count) { return count > 0; }));
  std::printf("%zu runs, %zu branches, %zu inputs found: no crash\n", runs, branches, corpus.size() - seeds - 1);
}
