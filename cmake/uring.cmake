# Target `uring`: liburing >= 2.9, and the kernel's headers that fit it.
#
# build/deps (made by tools/deps.sh) comes first; without it, what the system has. The headers are
# the library's alone: everything else in the tree is built against the system's.
set(PBUFSHIM_DEPS ${CMAKE_CURRENT_SOURCE_DIR}/build/deps)
set(uring_min 2.9)

set(uring_arch ${CMAKE_LIBRARY_ARCHITECTURE})
if(EXISTS ${PBUFSHIM_DEPS}/.stamp)
    set(uring_include ${PBUFSHIM_DEPS}/usr/include/${uring_arch} ${PBUFSHIM_DEPS}/usr/include)
    set(uring_library ${PBUFSHIM_DEPS}/usr/lib/${uring_arch}/liburing.a)
    set(uring_header_dir ${PBUFSHIM_DEPS}/usr/include)
else()
    find_path(PBUFSHIM_URING_INCLUDE liburing.h)
    # Static when there is one: the program must not see a liburing of ours.
    find_library(PBUFSHIM_URING_LIBRARY NAMES liburing.a uring)
    mark_as_advanced(PBUFSHIM_URING_INCLUDE PBUFSHIM_URING_LIBRARY)
    set(uring_header_dir ${PBUFSHIM_URING_INCLUDE})
    set(uring_include "")
    if(uring_header_dir AND NOT uring_header_dir STREQUAL "/usr/include")
        set(uring_include ${uring_header_dir})
    endif()
    set(uring_library ${PBUFSHIM_URING_LIBRARY})
endif()

# Older ones silently drop the flags of io_uring_register_buf_ring.
set(uring_version 0)
if(EXISTS ${uring_header_dir}/liburing/io_uring_version.h)
    file(STRINGS ${uring_header_dir}/liburing/io_uring_version.h uring_lines
        REGEX "IO_URING_VERSION_(MAJOR|MINOR)")
    string(REGEX REPLACE ".*MAJOR[ \t]+([0-9]+).*MINOR[ \t]+([0-9]+).*" "\\1.\\2" uring_version
        "${uring_lines}")
endif()
if(NOT EXISTS "${uring_library}" OR uring_version VERSION_LESS uring_min)
    message(FATAL_ERROR "liburing >= ${uring_min} is needed, found ${uring_version}: "
        "run tools/deps.sh build")
endif()
message(STATUS "liburing ${uring_version}: ${uring_library}")

add_library(uring UNKNOWN IMPORTED)
set_target_properties(uring PROPERTIES
    IMPORTED_LOCATION ${uring_library}
    INTERFACE_INCLUDE_DIRECTORIES "${uring_include}"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${uring_include}")
