# Running processes map the library's file, so that it must never be written into: it is copied
# beside the old one and renamed over it.
install(CODE "
    set(dir \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib\")
    file(MAKE_DIRECTORY \"\${dir}\")
    file(COPY_FILE \"$<TARGET_FILE:pbufshim>\" \"\${dir}/.libpbufshim.so.new\")
    file(CHMOD \"\${dir}/.libpbufshim.so.new\"
        PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
    file(RENAME \"\${dir}/.libpbufshim.so.new\" \"\${dir}/libpbufshim.so\")
    message(STATUS \"Installing: \${dir}/libpbufshim.so\")
")
install(PROGRAMS preload.sh DESTINATION bin)
install(TARGETS pbufshim-check DESTINATION lib/pbufshim)
install(FILES LICENSE DESTINATION share/doc/pbufshim)
