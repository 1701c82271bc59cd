# CUDA code is compiled wherever nvcc is found, whether or not the machine has a GPU.
#
# Include at the top level, after project(). Looks at TENON_CUDA (auto | on | off), then for nvcc in CUDACXX,
# the folder of `./dev setup`, and PATH. Gives TENON_HAVE_CUDA (ON or OFF) and the target tenon_cuda, which holds
# the definition TENON_HAVE_CUDA=1 or =0. The runtime is linked statically: a machine without CUDA runs the same binary.
include_guard(GLOBAL)

set(TENON_CUDA "auto" CACHE STRING "Compile CUDA code: auto, on or off")
set_property(CACHE TENON_CUDA PROPERTY STRINGS auto on off)
set(TENON_HAVE_CUDA OFF)
set(TENON_CUDA_VERSION 0)  # 13000 is 13.0

if(NOT TENON_CUDA STREQUAL "off")
  if(NOT CMAKE_CUDA_COMPILER)
    if(DEFINED ENV{CUDACXX})
      set(CMAKE_CUDA_COMPILER "$ENV{CUDACXX}")
    else()
      find_program(_nvcc nvcc HINTS "${TENON_DEPS}/cuda-13.0/bin" "${PROJECT_SOURCE_DIR}/.deps/cuda-13.0/bin" NO_CACHE)
      if(_nvcc)
        set(CMAKE_CUDA_COMPILER "${_nvcc}")
      endif()
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90-real;90-virtual" CACHE STRING "Machine code for A100 and H100, PTX for what comes after")
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    # CMake takes these folders from what nvcc prints, which it cannot read where a path has a space.
    get_filename_component(_cuda_bin "${CMAKE_CUDA_COMPILER}" DIRECTORY)
    link_directories("${_cuda_bin}/../lib64")
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(TENON_HAVE_CUDA ON)
    string(REGEX REPLACE "^([0-9]+)\\.([0-9]+).*" "\\1 * 1000 + \\2 * 10" _release "${CMAKE_CUDA_COMPILER_VERSION}")
    math(EXPR TENON_CUDA_VERSION "${_release}")
    message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: ${CMAKE_CUDA_COMPILER}, for ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(TENON_CUDA STREQUAL "on")
    message(FATAL_ERROR "TENON_CUDA is on, but there is no nvcc. Run ./dev setup, or set CUDACXX.")
  else()
    message(STATUS "CUDA: no nvcc, built without")
  endif()
endif()

add_library(tenon_cuda INTERFACE)
target_compile_definitions(tenon_cuda INTERFACE TENON_HAVE_CUDA=$<BOOL:${TENON_HAVE_CUDA}>)
