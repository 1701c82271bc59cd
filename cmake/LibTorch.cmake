# LibTorch without find_package(Torch): its config files want a whole CUDA toolkit and set directory-wide flags.
#
# Looks in TENON_LIBTORCH (a folder with include/ and lib/), then CMAKE_PREFIX_PATH, then the folder of `./dev setup`.
# Gives
#   tenon_torch_headers  include folders (as SYSTEM) and definitions
#   tenon_torch          the same and LibTorch's CPU libraries; CUDA's are loaded at run time, never linked
#   tenon_stable_torch   LibTorch's headers for plugins of the stable tier, held to the surface of TENON_STABLE_TORCH ("2.11")
#   tenon_fmt            LibTorch's own {fmt}, header-only, for code that must not see LibTorch's headers
#   TENON_TORCH_DIR, TENON_TORCH_LIB_DIR, TENON_TORCH_VERSION ("2.11.0")
# {fmt} comes from LibTorch everywhere: two versions of its templates in one library would break the one-definition rule.
include_guard(GLOBAL)

set(TENON_LIBTORCH "" CACHE PATH "LibTorch to build against: the folder that holds include/ and lib/")

function(_tenon_find_torch out)
  set(roots ${TENON_LIBTORCH})
  if(NOT roots)
    # A prefix may be LibTorch itself, a site-packages folder, or what torch.utils.cmake_prefix_path prints.
    foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
      list(APPEND roots "${prefix}" "${prefix}/torch" "${prefix}/../..")
    endforeach()
    string(REPLACE ":" ";" environment "$ENV{CMAKE_PREFIX_PATH}")
    foreach(prefix IN LISTS environment)
      list(APPEND roots "${prefix}" "${prefix}/torch" "${prefix}/../..")
    endforeach()
    list(APPEND roots "${PROJECT_SOURCE_DIR}/.deps/libtorch-2.11.0/torch")
  endif()
  foreach(root IN LISTS roots)
    if(EXISTS "${root}/lib/libtorch_cpu.so" AND EXISTS "${root}/include/ATen/core/Tensor.h")
      get_filename_component(root "${root}" ABSOLUTE)
      set(${out} "${root}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  list(JOIN roots "\n  " looked)
  message(FATAL_ERROR "LibTorch not found. Looked in\n  ${looked}\n"
    "Run ./dev setup, or name yours: -DTENON_LIBTORCH=/path/to/libtorch or CMAKE_PREFIX_PATH.")
endfunction()

_tenon_find_torch(TENON_TORCH_DIR)
set(TENON_TORCH_LIB_DIR "${TENON_TORCH_DIR}/lib")

set(_version_header "${TENON_TORCH_DIR}/include/torch/headeronly/version.h")
if(NOT EXISTS "${_version_header}")
  message(FATAL_ERROR "${TENON_TORCH_DIR} has no torch/headeronly/version.h; tenon needs LibTorch 2.11 or newer")
endif()
file(READ "${_version_header}" _text)
set(TENON_TORCH_VERSION "")
foreach(part MAJOR MINOR PATCH)
  string(REGEX MATCH "TORCH_VERSION_${part} ([0-9]+)" _match "${_text}")
  list(APPEND TENON_TORCH_VERSION "${CMAKE_MATCH_1}")
endforeach()
list(JOIN TENON_TORCH_VERSION "." TENON_TORCH_VERSION)
if(TENON_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${TENON_TORCH_VERSION} in ${TENON_TORCH_DIR} is too old; tenon needs 2.11 or newer")
endif()
message(STATUS "LibTorch ${TENON_TORCH_VERSION}: ${TENON_TORCH_DIR}")

# A folder with fmt/ alone, so that code without LibTorch cannot include its headers by accident.
find_path(_fmt_parent fmt/format.h PATHS "${TENON_TORCH_DIR}/include" NO_DEFAULT_PATH NO_CACHE)
if(NOT _fmt_parent)
  find_path(_fmt_parent fmt/format.h NO_CACHE REQUIRED)
endif()
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/fmt_only")
file(CREATE_LINK "${_fmt_parent}/fmt" "${PROJECT_BINARY_DIR}/fmt_only/fmt" SYMBOLIC)
add_library(tenon_fmt INTERFACE)
target_include_directories(tenon_fmt SYSTEM INTERFACE "${PROJECT_BINARY_DIR}/fmt_only")
target_compile_definitions(tenon_fmt INTERFACE FMT_HEADER_ONLY)

add_library(tenon_torch_headers INTERFACE)
target_include_directories(tenon_torch_headers SYSTEM INTERFACE
  "${TENON_TORCH_DIR}/include" "${TENON_TORCH_DIR}/include/torch/csrc/api/include")
# With the last one, ATen's operators and autograd do not bring every function of the library along: seconds in each file that includes them.
target_compile_definitions(tenon_torch_headers INTERFACE _GLIBCXX_USE_CXX11_ABI=1 FMT_HEADER_ONLY AT_PER_OPERATOR_HEADERS)

set(TENON_STABLE_TORCH "2.11" CACHE STRING "The oldest LibTorch release that plugins of the stable tier are made for")
string(REGEX MATCH "^([0-9]+)\\.([0-9]+)$" _match "${TENON_STABLE_TORCH}")
if(NOT _match OR TENON_STABLE_TORCH VERSION_GREATER TENON_TORCH_VERSION)
  message(FATAL_ERROR "TENON_STABLE_TORCH is '${TENON_STABLE_TORCH}', expected a release such as 2.11 that is not newer than LibTorch ${TENON_TORCH_VERSION}")
endif()
math(EXPR _target "(${CMAKE_MATCH_1} << 56) | (${CMAKE_MATCH_2} << 48)" OUTPUT_FORMAT HEXADECIMAL)
add_library(tenon_stable_torch INTERFACE)
target_include_directories(tenon_stable_torch SYSTEM INTERFACE "${TENON_TORCH_DIR}/include")
target_compile_definitions(tenon_stable_torch INTERFACE TORCH_TARGET_VERSION=${_target}ULL)

foreach(name c10 torch_cpu)
  add_library(tenon_${name} SHARED IMPORTED GLOBAL)
  set_target_properties(tenon_${name} PROPERTIES
    IMPORTED_LOCATION "${TENON_TORCH_LIB_DIR}/lib${name}.so" IMPORTED_SONAME "lib${name}.so")
endforeach()
target_link_libraries(tenon_torch_cpu INTERFACE tenon_c10)

add_library(tenon_torch INTERFACE)
target_link_libraries(tenon_torch INTERFACE tenon_torch_headers tenon_torch_cpu tenon_c10)

# Our own libraries are found relative to each binary, so that a build tree may move; LibTorch by its full path.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
