#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tenon/error.h"

namespace tenon::host {

namespace {

[[noreturn]] void fail_errno(const std::filesystem::path& file, const char* what) {
  fail(ErrorCode::Data, "cannot ", what, " '", file.string(), "': ", std::strerror(errno));
}

struct Descriptor {
  int fd;
  explicit Descriptor(int f) : fd(f) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

uint64_t regular_size(int fd, const std::filesystem::path& file) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail_errno(file, "read");
  if (S_ISDIR(info.st_mode)) fail(ErrorCode::Data, "cannot read '", file.string(), "': it is a folder");
  if (!S_ISREG(info.st_mode)) fail(ErrorCode::Data, "cannot read '", file.string(), "': it is not a regular file");
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

std::string read_file(const std::filesystem::path& file, uint64_t max_bytes) {
  const Descriptor d(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (d.fd < 0) fail_errno(file, "read");
  const uint64_t size = regular_size(d.fd, file);
  if (size > max_bytes) fail(ErrorCode::Data, "'", file.string(), "' has ", size, " bytes, at most ", max_bytes, " are read");
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(d.fd, bytes.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(file, "read");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

void write_file(const std::filesystem::path& file, std::string_view bytes) {
  AtomicFile out(file);
  out.write(bytes.data(), bytes.size());
  out.commit();
}

AtomicFile::AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
  std::error_code ignored;
  if (target_.has_parent_path()) std::filesystem::create_directories(target_.parent_path(), ignored);
  std::string name = target_.string() + ".XXXXXX";
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) fail_errno(target_, "write");
  temporary_ = name;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(fd_, 0666 & ~mask);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, at, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(target_, "write");
    at += n, bytes -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0 || ::close(fd_) != 0) {
    fd_ = -1;
    fail_errno(target_, "write");
  }
  fd_ = -1;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_errno(target_, "write");
  temporary_.clear();
  const Descriptor folder(::open(target_.has_parent_path() ? target_.parent_path().c_str() : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.fd >= 0) ::fsync(folder.fd);
}

MappedFile::MappedFile(const std::filesystem::path& file) {
  const Descriptor d(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (d.fd < 0) fail_errno(file, "read");
  size_ = regular_size(d.fd, file);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, d.fd, 0);
  if (address == MAP_FAILED) fail_errno(file, "map");
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(uint64_t offset, uint64_t length) const {
  // Whole pages inside the range only: neighbours may be in use.
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = (offset + page - 1) / page * page, end = (offset + length) / page * page;
  if (data_ && begin < end && end <= size_) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

void MappedFile::will_need(uint64_t offset, uint64_t length) const {
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  if (data_ && length > 0 && offset + length <= size_)
    ::madvise(const_cast<std::byte*>(data_) + begin, offset + length - begin, MADV_WILLNEED);
}

}  // namespace tenon::host
