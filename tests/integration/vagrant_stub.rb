# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# A stand-in for Vagrant: loads a Vagrantfile and prints as JSON what it asked for. ruby vagrant_stub.rb VAGRANTFILE
require 'json'

# Anything that is set or called is noted under its name.
class Recorder
  def initialize
    @seen = {}
    @children = {}
  end

  def method_missing(name, *arguments, **keywords, &block)
    key = name.to_s
    return @seen[key.chomp('=')] = arguments[0] if key.end_with?('=')

    case key
    when 'define', 'provider'
      child = @children[[key, arguments[0].to_s]] ||= Recorder.new
      if key == 'provider'
        override = @children[['override', arguments[0].to_s]] ||= Recorder.new
        block&.call(child, override)
      else
        block&.call(child)
      end
    when 'vm', 'ssh'
      @children[[key, '']] ||= Recorder.new
    else
      (@seen[key] ||= []) << [*arguments, keywords]
    end
  end

  def respond_to_missing?(*)
    true
  end

  def to_h
    @seen.merge(@children.to_h { |(kind, name), child| [name.empty? ? kind : "#{kind}:#{name}", child.to_h] })
  end
end

module Vagrant
  module Errors
    class VagrantError < StandardError; end
  end

  def self.require_version(*) = nil

  def self.configure(_version)
    config = Recorder.new
    yield config
    puts JSON.dump(config.to_h)
  end
end

%i[open system exec spawn `].each do |name|
  Kernel.define_method(name) { |*arguments, **| abort "the Vagrantfile calls #{name} #{arguments.inspect}" }
end
begin
  load File.expand_path(ARGV[0])
rescue Vagrant::Errors::VagrantError => e
  abort "problem: #{e.message}"
end
