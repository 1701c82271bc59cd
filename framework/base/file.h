#pragma once
// Files: whole reads, memory maps, and writes that appear only when complete (write, fsync, rename).
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace tenon::host {

// A regular file or a link to one; false where the system will not say.
inline bool is_file(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

// Error(Data) naming the file and the system's reason; files over `max_bytes` are refused.
std::string read_file(const std::filesystem::path& file, uint64_t max_bytes = uint64_t{1} << 30);
void write_file(const std::filesystem::path& file, std::string_view bytes);

// Written beside `target` under a temporary name; commit() makes it appear, the destructor without commit() removes it.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();
  void write(const void* data, size_t bytes);
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int fd_ = -1;
};

// A read-only private map of a whole file. Reading past a file truncated meanwhile is the one risk left; the size is checked when mapped.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Tells the kernel that [offset, offset + length) is no longer needed: resident pages go.
  void release(uint64_t offset, uint64_t length) const;
  void will_need(uint64_t offset, uint64_t length) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tenon::host
